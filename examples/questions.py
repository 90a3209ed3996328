"""Ask ten questions about the lab and the line examples, and show a solution only when it is asked for.

Every solution ends in a Python session that shows what it claims; the tests run each session and compare its output.

Run it: python examples/questions.py --show 3
"""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question, its solution, and a session (as for `doctest`) that shows the solution to be true."""

    title: str
    text: str
    solution: str
    session: str
    needs: str = "numpy"


QUESTIONS = (
    Question(
        title="A gradient by hand",
        text="""
            The line y = w*x + b starts at w = b = 0. The minibatch is (x, y) = (1, 2) and (3, 4).
            What are the mean squared error and its gradients by w and by b? Where is the line after one step
            with learning rate 0.1, and has the loss fallen?
            """,
        solution="""
            The predictions are 0 and 0, so the errors, prediction minus target, are -2 and -4.
            The loss is (4 + 16) / 2 = 10. By w: 2/2 * (-2 * 1 + -4 * 3) = -14. By b: 2/2 * (-2 + -4) = -6.
            A step goes against the gradient: w = 1.4, b = 0.6. The predictions are now 2 and 4.8, and the loss is 0.32.
            """,
        session="""
            >>> import numpy as np
            >>> from line_closed_form import Line, gradient_on_paper, loss_on_paper
            >>> x, y = np.array([1.0, 3.0]), np.array([2.0, 4.0])
            >>> loss_on_paper(Line(0, 0), x, y), gradient_on_paper(Line(0, 0), x, y)
            (10.0, Line(w=-14.0, b=-6.0))
            >>> print(f"{loss_on_paper(Line(1.4, 0.6), x, y):.2f}")
            0.32
            """,
    ),
    Question(
        title="The noise of a minibatch",
        text="""
            With a constant learning rate the line examples come near the closed form, then wander about it and never
            settle, however many steps they take. Why? What do minibatches four times as large change?
            """,
        solution="""
            At the closed form the gradient over all examples is zero, but over a minibatch it is not: it is right on
            average, with an error whose standard deviation falls as 1 / sqrt(m) for a minibatch of m examples. So
            every step pushes the line away a little, and the mean gradient pulls it back. `noise_spread` derives
            where the two balance: w and b stay about noise * sqrt(learning_rate / m) from the closed form. Minibatches
            four times as large halve that; so does a quarter of the learning rate, one reason to lower it late.
            """,
        session="""
            >>> import numpy as np
            >>> from line_closed_form import closed_form, make_problem
            >>> problem = make_problem()
            >>> w, b = closed_form(problem.x, problem.y)
            >>> by_w = 2 * (w * problem.x + b - problem.y) * problem.x  # of each example by itself
            >>> bool(abs(by_w.mean()) < 1e-6)
            True
            >>> random = np.random.default_rng(0)
            >>> def spread(m):
            ...     return random.choice(by_w, size=(10_000, m)).mean(axis=1).std()
            >>> print(f"{spread(8) / spread(32):.1f}")
            2.0
            """,
    ),
    Question(
        title="What the tape records",
        text="""
            Inside `with tf.GradientTape() as tape`, w is a variable equal to 2 and x a constant equal to 3. What does
            the tape answer for the gradient of w * x by w, of w * x by x, and of a square of w taken by NumPy by w?
            """,
        solution="""
            3, None and None. The tape records TensorFlow operations while they run, and only those that depend on
            something it watches. It watches trainable variables; a constant only after `tape.watch(x)`. NumPy computes
            outside TensorFlow, so what comes back is a new constant without a past. None is an answer and not an error:
            look for it. Python itself is not recorded: the tape follows whichever branch an `if` takes.
            """,
        session="""
            >>> import numpy as np
            >>> import tensorflow as tf
            >>> w, x = tf.Variable(2.0), tf.constant(3.0)
            >>> with tf.GradientTape(persistent=True) as tape:
            ...     product = w * x if w > 0 else w
            ...     square = tf.constant(np.square(w.numpy()))
            >>> float(tape.gradient(product, w)), tape.gradient(product, x), tape.gradient(square, w)
            (3.0, None, None)
            >>> with tf.GradientTape() as tape:
            ...     tape.watch(x)
            ...     product = w * x
            >>> float(tape.gradient(product, x))
            2.0
            """,
        needs="tensorflow",
    ),
    Question(
        title="What jit traces, and why the loss must be pure",
        text="""
            `loss(w, x)` appends x.shape to a list and multiplies by a global `scale`. It is run through
            `jax.jit(jax.value_and_grad(loss))` for two x of four numbers, then for one of eight. How long is the list?
            What does a new value of `scale` change after that?
            """,
        solution="""
            Two, and nothing. value_and_grad calls the Python function on stand-ins for the arguments, and finds
            gradients by arguments alone: what the function reads elsewhere is a constant, and what it writes elsewhere
            is a stand-in, not a number. jit calls it once for each new combination of shapes and dtypes and records the
            operations; afterwards only the record runs. So an effect happens once for each recording, and a global is
            frozen at its value of that time. A function whose result depends on its arguments alone, and which does
            nothing else, is the same either way: that is what JAX means by pure, and why the parameters go into `loss`
            and come out of `apply`. An `if` on a value has no answer while jit records, and raises an error; a tape,
            which records what really runs, simply follows it.
            """,
        session="""
            >>> import jax
            >>> import jax.numpy as jnp
            >>> scale, shapes = 2.0, []
            >>> def loss(w, x):
            ...     shapes.append(x.shape)
            ...     return (scale * w * x).sum()
            >>> step = jax.jit(jax.value_and_grad(loss))
            >>> _ = step(1.0, jnp.ones(4)), step(5.0, jnp.zeros(4)), step(1.0, jnp.ones(8))
            >>> shapes
            [(4,), (8,)]
            >>> scale = 10.0
            >>> float(step(1.0, jnp.ones(4))[0])
            8.0
            >>> jax.jit(lambda w: w if w > 0 else -w)(1.0)
            Traceback (most recent call last):
                ...
            jax.errors.TracerBoolConversionError: ...
            >>> seen = []
            >>> _ = jax.value_and_grad(lambda w: seen.append(w) or w * w)(2.0)
            >>> isinstance(seen[0], jax.core.Tracer)
            True
            """,
        needs="jax",
    ),
    Question(
        title="Why float32 results differ, and by how much",
        text="""
            The three SGD examples run the same maths on the same minibatches in the same order, and their parameters
            differ from about the seventh decimal on. Which of them is wrong? When would a larger difference be fine?
            """,
        solution="""
            None is. Every operation rounds, by at most 2**-24 = 6e-8 of its result, so the order of a sum matters, and
            each framework chooses its own. A few roundings on numbers near 1 give a few 1e-7. Two things make it more.
            Long sums: added one after the other, the error may grow with their length; in pairs, only with its
            logarithm. And cancellation: where large terms leave a small result, their rounding is large next to it
            (19% below). So judge a difference by the size of what was added, or against float64, not by a fixed rule.
            """,
        session="""
            >>> import numpy as np
            >>> one, tiny = np.float32(1), np.float32(2**-24)
            >>> bool((one + tiny) + tiny == one + (tiny + tiny))
            False
            >>> print(f"{(one + np.float32(1e-7)) - one:.2e}")
            1.19e-07
            >>> x = np.random.default_rng(0).random(1_000_000, dtype=np.float32)
            >>> exact = x.sum(dtype=np.float64)
            >>> one_by_one, in_pairs = np.cumsum(x)[-1], np.sum(x)
            >>> bool(abs(one_by_one - exact) > 10 * abs(in_pairs - exact))
            True
            """,
    ),
    Question(
        title="Logits and sparse cross-entropy",
        text="""
            A fresh classifier of ten classes starts at a loss of about 2.303: is that a bug? Another one ends in a
            softmax, is trained with `from_logits=True`, and never gets below 1.461: why? And why logits at all?
            """,
        solution="""
            2.303 is ln 10, the cross-entropy of ten equal probabilities: a fresh model knows nothing. 1.461 is what a
            second softmax makes of perfect probabilities: it takes 1 and nine 0s for logits, and
            -ln(e / (e + 9)) = 1.461. Logits, because the logarithm and the softmax together can subtract the largest
            logit first, so that exp never overflows. The gradient by the logits is then simply softmax minus one-hot.
            'Sparse' only says that a label is the number of a class, not a one-hot row: the loss is the same.
            """,
        session="""
            >>> import numpy as np
            >>> def cross_entropy(logits, label):
            ...     shifted = logits - logits.max()
            ...     return np.log(np.exp(shifted).sum()) - shifted[label]
            >>> one_hot = np.eye(10)[3]
            >>> print(f"{cross_entropy(np.zeros(10), 3):.3f} {cross_entropy(one_hot, 3):.3f}")
            2.303 1.461
            >>> with np.errstate(all="ignore"):
            ...     print(np.exp(1000.0) / (np.exp(1000.0) + 1), float(cross_entropy(np.array([1000.0, 0.0]), 1)))
            nan 1000.0
            >>> logits = np.arange(10.0)
            >>> gradient = np.exp(logits) / np.exp(logits).sum() - one_hot
            >>> moved = [cross_entropy(logits + 1e-6 * e, 3) - cross_entropy(logits - 1e-6 * e, 3) for e in np.eye(10)]
            >>> bool(np.allclose(gradient, np.array(moved) / 2e-6, atol=1e-8))
            True
            """,
    ),
    Question(
        title="Overfitting and early stopping",
        text="""
            The loss on the training data falls at every epoch; on the validation data it is 0.90, 0.60, 0.50, 0.52,
            0.55, 0.58 and would then be 0.40. Keras's EarlyStopping watches it with patience=3. After which epoch does
            training stop, and which epoch's weights has the model then, with restore_best_weights and without?
            """,
        solution="""
            After epoch 6, the third in a row that did not beat the best, 0.50. With restore_best_weights the model has
            the weights of epoch 3; without, which is the default, those of epoch 6. The 0.40 is never seen: patience
            trades time for the chance of it. The training loss cannot tell, because a model with enough freedom fits
            the noise as well: below, a curve of degree 9 meets ten training points exactly and is further from new
            ones than the line is. And since the validation data chose the epoch, its 0.50 flatters: report the loss
            on a test set that chose nothing.
            """,
        session="""
            >>> import numpy as np
            >>> losses, best, wait = [0.90, 0.60, 0.50, 0.52, 0.55, 0.58, 0.40], float("inf"), 0
            >>> for epoch, loss in enumerate(losses, start=1):
            ...     wait = 0 if loss < best else wait + 1
            ...     best = min(best, loss)
            ...     if wait == 3:
            ...         break
            >>> epoch, losses.index(best) + 1
            (6, 3)
            >>> random = np.random.default_rng(0)
            >>> x, new_x = np.linspace(-1, 1, 10), np.linspace(-1, 1, 1000)
            >>> y, new_y = (2 * u - 1 + 0.3 * random.standard_normal(u.size) for u in (x, new_x))
            >>> def typical(error):
            ...     return np.sqrt(np.mean(error**2))
            >>> for degree in (1, 9):
            ...     curve = np.polynomial.Polynomial.fit(x, y, degree)
            ...     print(f"degree {degree}: {typical(curve(x) - y):.2f} seen, {typical(curve(new_x) - new_y):.2f} new")
            degree 1: 0.22 seen, 0.30 new
            degree 9: 0.00 seen, 0.38 new
            """,
    ),
    Question(
        title="The same seed, another dropout mask",
        text="""
            The same model with the same seed drops other units on each backend. Is the seed ignored? Why are the
            kept units multiplied by 1 / (1 - rate), and what has to be done to get the same masks everywhere?
            """,
        solution="""
            The seed is used, but it only starts a generator, and each framework has its own: the same seed in another
            generator is another stream. NumPy shows it with two of its generators. The factor keeps the mean of what
            the next layer receives, so that nothing has to change when dropout is off. Equal masks need one generator
            for all: the same numbers, drawn once and given to each backend, as dlf does. Otherwise compare backends
            with dropout off, or many seeds on each.
            """,
        session="""
            >>> import numpy as np
            >>> first, second = (np.random.Generator(kind(7)) for kind in (np.random.MT19937, np.random.Philox))
            >>> bool(np.array_equal(first.random(100) < 0.8, second.random(100) < 0.8))
            False
            >>> again = np.random.Generator(np.random.MT19937(7))
            >>> bool(np.array_equal(np.random.Generator(np.random.MT19937(7)).random(100), again.random(100)))
            True
            >>> kept = first.random(1_000_000) < 0.8
            >>> print(f"{(3.0 * kept / 0.8).mean():.2f}")
            3.00
            """,
    ),
    Question(
        title="The missing zero_grad",
        text="""
            Most torch code calls `optimizer.zero_grad()` at each step. line_autograd.py never does. Is that a bug?
            """,
        solution="""
            No. `backward()` adds the new gradients to those in `.grad`, so whoever uses it must clear them, or each
            step goes along the sum of all gradients so far. `torch.autograd.grad`, which line_autograd.py uses, returns
            the gradients and leaves `.grad` alone, as the tape and jax.grad do. Adding is useful too: the gradients of
            two half minibatches, each loss divided by 2, add up to that of the whole, which need not fit in memory.
            """,
        session="""
            >>> import torch
            >>> w, x = torch.tensor(2.0, requires_grad=True), torch.tensor([1.0, 2.0, 3.0, 4.0])
            >>> (3 * w).backward()
            >>> (3 * w).backward()
            >>> w.grad
            tensor(6.)
            >>> torch.autograd.grad(3 * w, w), w.grad
            ((tensor(3.),), tensor(6.))
            >>> w.grad = None
            >>> for half in x.split(2):
            ...     (((w * half) ** 2).mean() / 2).backward()
            >>> w.grad, torch.autograd.grad(((w * x) ** 2).mean(), w)
            (tensor(30.), (tensor(30.),))
            """,
        needs="torch",
    ),
    Question(
        title="The epsilon in Adam",
        text="""
            By default epsilon is 1e-8 in optax and torch, 1e-7 in Keras. How long is Adam's first step for a gradient
            of 1, and for one of 1e-7, in units of the learning rate?
            """,
        solution="""
            For a gradient of 1 it is 1 in all three: the first step is g / (|g| + epsilon), whose size hardly depends
            on g until |g| is as small as epsilon. For 1e-7 it is 0.909 in optax and torch and 0.031 in Keras, because
            Keras not only has another epsilon but adds it before the bias of v is corrected, so that on the first step
            it counts as 1e-7 / sqrt(1 - 0.999) = 3.2e-6. Small gradients therefore train differently: neither is
            wrong, but 'Adam with the defaults' is not one optimizer.
            """,
        session="""
            >>> import numpy as np
            >>> def first_steps(g):
            ...     m, v = (1 - 0.9) * g, (1 - 0.999) * g**2
            ...     optax = m / (1 - 0.9) / (np.sqrt(v / (1 - 0.999)) + 1e-8)
            ...     keras = m / (1 - 0.9) * np.sqrt(1 - 0.999) / (np.sqrt(v) + 1e-7)
            ...     return f"optax and torch {optax:.3f}, Keras {keras:.3f}"
            >>> print(first_steps(1.0))
            optax and torch 1.000, Keras 1.000
            >>> print(first_steps(1e-7))
            optax and torch 0.909, Keras 0.031
            """,
    ),
)


def main(argv: Sequence[str] | None = None) -> tuple[int, ...]:
    """Print the questions, or the solutions that were asked for, and return the numbers of those solutions."""
    parser = argparse.ArgumentParser(description="Questions about the lab and the line examples.")
    parser.add_argument(
        "--show", action="append", default=[], metavar="N", help="show the solution of question N, or 'all'; repeatable"
    )
    every = tuple(range(1, len(QUESTIONS) + 1))
    choices = {"all": every} | {str(number): (number,) for number in every}
    chosen: dict[int, None] = {}
    for choice in parser.parse_args(argv).show:
        if choice not in choices:
            parser.error(f"argument --show: expected a number from 1 to {len(every)}, or all, received {choice!r}")
        chosen |= dict.fromkeys(choices[choice])
    numbers = tuple(chosen)
    for number in numbers or every:
        question = QUESTIONS[number - 1]
        print(f"{number}. {question.title}\n\n{indented(question.text)}\n")
        if numbers:
            print(f"  Solution\n\n{indented(question.solution)}\n")
            print(f"  See for yourself, in examples/ (needs {question.needs})\n\n{indented(question.session)}\n")
    if not numbers:
        print("Solutions: python examples/questions.py --show 3, or --show all")
    return numbers


def indented(text: str) -> str:
    """Return the text with the margin that it has in this file replaced by one for the screen."""
    return textwrap.indent(textwrap.dedent(text).strip(), "    ")


if __name__ == "__main__":
    main()
