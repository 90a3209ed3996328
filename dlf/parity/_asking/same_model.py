"""Whether the backends have built the same model, and are given the same batches: only then can they be compared."""

from __future__ import annotations

from collections.abc import Sequence

from dlf.parity._asking.requests import Requests
from dlf.parity._judging.build import judge_build
from dlf.parity._judging.reasons import with_reasons
from dlf.utils.errors import BackendError, InvalidArgumentError, UnknownInputsError, revive
from dlf.utils.words import listed

__all__ = ["build_everywhere", "check_repeats", "is_same_model", "remarks"]


def build_everywhere(requests: Requests) -> None:
    """Builds the model on each backend, with the batches that the script trains on, wherever they can be read."""
    requests.build(requests.backends)
    _share_training(requests)
    requests.check_enough()
    _check_lines(requests)
    _note_draws(requests)


def is_same_model(requests: Requests) -> bool:
    """Whether it is the same model everywhere; then the batches have to be the same too.

    Raises:
        InvalidArgumentError: The target builds another model at each call, or draws other batches on each backend.
    """
    optimizer = next(iter(requests.built.values()))["optimizer"]
    found = with_reasons(judge_build(requests.built), requests.built, optimizer)
    # With a known difference in the build, it is still the same model.
    same = all(each.verdict != "diverged" or each.reason for each in found)
    if len({each["digest"] for each in requests.built.values()}) > 1:
        # Most likely the target draws or counts: then nothing of it can be compared.
        check_repeats(requests)
    if same:
        # Otherwise the rest would compare two different models.
        _check_batches(requests)
    return same


def check_repeats(requests: Requests) -> None:
    """Raises if the target builds another model at each call: then a difference between backends says nothing."""
    again = requests.ask({"do": "build_again"}, requests.built)
    other = [name for name, each in again.items() if each["changed"]]
    if other:
        changed = "; ".join(again[other[0]]["changed"])
        raise InvalidArgumentError(
            "TARGET",
            expected="a function that builds the same model at each call",
            received=requests.options.target,
            advice=f"On {', '.join(other)} its second model differs from its first: {changed}. "
            "See what it draws or counts.",
        )


def remarks(requests: Requests) -> list[str]:
    """What has to be known of the file: each remark once, with the backends where it is not of all."""
    whose: dict[str, list[str]] = {}
    for name, each in requests.built.items():
        for remark in each["remarks"]:
            whose.setdefault(remark, []).append(name)
    return [
        remark if len(names) == len(requests.built) else f"{remark}, on {listed(names)}"
        for remark, names in whose.items()
    ]


def _share_training(requests: Requests) -> None:
    """Gives all backends the batches that the script trains on on one of them.

    A pipeline of TensorFlow's may not come through on another backend, or gives others where it shuffles. And a file's
    own loop, in one framework's words, may build the model there alone: elsewhere it is built on what it takes there.
    """
    # One that knows what the model's step calls it on comes first.
    having = [name for name, each in requests.built.items() if each["batches_of_training"]]
    having.sort(key=lambda name: not requests.built[name]["called_by_step"])
    unknown = [name for name, each in requests.failed.items() if isinstance(each, UnknownInputsError)]
    if not having and requests.built and unknown:
        _build_on_batches_of(next(iter(requests.built)), unknown, requests)
    if not having:
        _share_made_up(requests)
        return
    called = requests.built[having[0]]["called_by_step"]
    lacking = list(requests.failed) if called else unknown
    lacking += [
        name
        for name, each in requests.built.items()
        if name not in having and (called or each["training_refused"] is None) and not requests.options.data
    ]
    unlike = [name for name in having if requests.built[name]["batches"] != requests.built[having[0]]["batches"]]
    if not (lacking or unlike):
        return
    file = _build_on_batches_of(having[0], lacking, requests)
    for name in requests.ask({"do": "load_batches", "file": file}, unlike, of_all=True):
        requests.built[name]["batches"] = requests.built[having[0]]["batches"]


def _share_made_up(requests: Requests) -> None:
    """Gives all backends the batches that one has made, where a loss has refused some on some backends alone."""
    taking = sorted(requests.built, key=lambda name: requests.built[name]["refused"] is not None)
    unlike = [name for name in taking if requests.built[name]["batches"] != requests.built[taking[0]]["batches"]]
    if requests.options.data or not unlike:
        return
    file = requests.file("batches.npz")
    requests.ask({"do": "save_batches", "file": file}, taking[:1], of_all=True)
    for name in requests.ask({"do": "load_batches", "file": file}, unlike, of_all=True):
        requests.built[name]["batches"] = requests.built[taking[0]]["batches"]


def _build_on_batches_of(giver: str, lacking: Sequence[str], requests: Requests) -> str:
    """Builds the model on some backends on the batches of another; returns the file that holds them."""
    file = requests.file("batches.npz")
    requests.ask({"do": "save_batches", "file": file}, [giver], of_all=True)
    requests.failed = {name: each for name, each in requests.failed.items() if name not in lacking}
    requests.build(lacking, batches=file)
    return file


def _check_lines(requests: Requests) -> None:
    """Leaves out backends whose model differs where lines of the file failed that the others have run."""
    fewest = min((each["lines_left_out"] for each in requests.built.values()), key=len)
    for name, each in list(requests.built.items()):
        other = set(each["lines_left_out"]) - set(fewest)
        kinds = [found.kind for found in judge_build(requests.built) if found.verdict == "diverged"]
        # Code of another framework differs by itself, and lines may have failed for the same reason.
        if other and kinds and "foreign output" not in kinds:
            said = "; ".join(each["remarks"])
            requests.failed[name] = BackendError(f"In the target's file, {said}; and the model is another there.")
            del requests.built[name]
    requests.check_enough()


def _note_draws(requests: Requests) -> None:
    """Notes that values are not drawn alike where a pipeline, say, has drawn on some backends alone.

    Where more lines of the file have run on one, its model has come further: then they are not compared at all.
    """
    built = list(requests.built.values())
    further = len({(*each["lines_left_out"], each["trainings"]) for each in built}) > 1
    if further or len({each["draws"] for each in built}) > 1:
        for each in built:
            each["drawn_alike"] = False
            each["values"] = built[0]["values"] if further else each["values"]


def _check_batches(requests: Requests) -> None:
    trains = any(each["batches_of_training"] for each in requests.built.values())
    # Where the loss has a value on some backends, what is before it can be compared on all.
    # And targets that nobody gave say nothing of it.
    no_loss = requests.options.data and all(each["refused"] is not None for each in requests.built.values())
    for name, each in requests.built.items():
        refused = each["training_refused"] if trains else each["refused"] if no_loss else None
        if refused is not None:
            requests.failed[name] = revive(InvalidArgumentError, refused, {})
    requests.check_enough()
    digests = {name: requests.built[name]["batches"] for name in requests.alive(requests.built)}
    if len({tuple(each) for each in digests.values()}) > 1:
        raise InvalidArgumentError(
            "--data",
            expected="the same batches on every backend",
            received=digests,
            advice="Draw from the generator that the function is given, with NumPy alone.",
        )
