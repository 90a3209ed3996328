"""Cases of layers that run over steps: recurrent ones, their cells, and wrappers.

Requirements:

* both directions, states in and out, masks with holes, unrolled loops and dropout have cases for each kind of cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from keras import layers

from zoo.entry import Case
from zoo.models import Spec, given

__all__ = ["CASES"]

_SEQUENCE, _MASK = Spec((7, 4)), Spec((7,), "bool")

_masked = given(_SEQUENCE, _MASK, call=lambda layer, x, mask: layer(x, mask=mask), data="masked_sequences")


def _recurrent() -> Iterator[dict[str, Case]]:
    for name in ("LSTM", "GRU", "SimpleRNN"):
        kind = partial(getattr(layers, name), 3)
        backwards = partial(kind, go_backwards=True, return_sequences=True)
        yield given(_SEQUENCE)(
            **{
                name: kind,
                f"{name}__sequences": partial(kind, return_sequences=True),
                f"{name}__return_state": partial(kind, return_state=True, return_sequences=True),
                f"{name}__go_backwards": backwards,
                f"{name}__unroll": partial(kind, unroll=True, use_bias=False),
                f"{name}__relu": partial(kind, activation="relu"),
                f"{name}__dropout": partial(kind, dropout=0.3, recurrent_dropout=0.2, seed=7),
            }
        )
        yield _masked(
            **{
                f"{name}__mask": partial(kind, return_sequences=True),
                f"{name}__mask_last": kind,
                f"{name}__mask_backwards": backwards,
                f"{name}__mask_unroll": partial(kind, unroll=True, return_state=True),
                f"{name}__mask_zeros": partial(kind, return_sequences=True, zero_output_for_mask=True),
            }
        )
        states = 2 if name == "LSTM" else 1
        yield given(
            _SEQUENCE, *[Spec((3,))] * states, call=lambda layer, x, *state: layer(x, initial_state=list(state))
        )(**{f"{name}__initial_state": kind})
        yield given(Spec((7, 4), batch=8))(**{f"{name}__stateful": partial(kind, stateful=True)})
        yield given(_SEQUENCE)(**{f"{name}Cell": partial(_looped, _cell(f"{name}Cell", 3))})
        yield given(_SEQUENCE)(**{f"Bidirectional__{name.lower()}": partial(_both_ways, name)})
    for rank, shape in enumerate(((4, 9, 2), (4, 6, 5, 2), (3, 4, 5, 4, 2)), 1):
        kind = partial(getattr(layers, f"ConvLSTM{rank}D"), 3)
        yield given(Spec(shape))(
            **{
                f"ConvLSTM{rank}D": partial(kind, 3),
                f"ConvLSTM{rank}D__same_sequences": partial(kind, 2, padding="same", return_sequences=True),
                f"ConvLSTM{rank}D__strides_state": partial(kind, 3, strides=2, padding="same", return_state=True),
                f"ConvLSTM{rank}D__dropout": partial(kind, 3, dropout=0.3, recurrent_dropout=0.2, seed=7),
            }
        )
        first = Spec((shape[0], shape[-1], *shape[1:-1]))
        yield given(first)(**{f"ConvLSTM{rank}D__first": partial(kind, 3, data_format="channels_first")})


def _looped(*cells: Callable[[], Any], **keywords: Any) -> Any:
    made = [cell() for cell in cells]
    return layers.RNN(made[0] if len(made) == 1 else made, **keywords)


def _both_ways(name: str, *, merge_mode: str | None = "concat", **keywords: Any) -> Any:
    return layers.Bidirectional(getattr(layers, name)(3, name="inner", **keywords), merge_mode=merge_mode)


def _cell(name: str, units: int, title: str = "cell") -> Callable[[], Any]:
    return partial(getattr(layers, name), units, name=title)


def _loops() -> Iterator[dict[str, Case]]:
    cells = (_cell("LSTMCell", 3, "below"), _cell("GRUCell", 2, "above"))
    yield given(_SEQUENCE)(
        RNN=lambda: _looped(_cell("LSTMCell", 3), return_sequences=True, return_state=True),
        RNN__go_backwards=lambda: _looped(_cell("GRUCell", 3), go_backwards=True, return_sequences=True),
        RNN__gru_reset_before=lambda: layers.RNN(layers.GRUCell(3, reset_after=False, name="cell")),
        GRU__reset_before=lambda: layers.GRU(3, reset_after=False),
        LSTM__no_forget_bias=lambda: layers.LSTM(3, unit_forget_bias=False, recurrent_activation="hard_sigmoid"),
        StackedRNNCells=lambda: _looped(*cells, return_sequences=True),
        StackedRNNCells__return_state=lambda: _looped(*cells, return_state=True),
        Bidirectional__sum=lambda: _both_ways("LSTM", merge_mode="sum", return_sequences=True),
        Bidirectional__mul=lambda: _both_ways("GRU", merge_mode="mul"),
        Bidirectional__ave=lambda: _both_ways("SimpleRNN", merge_mode="ave", return_sequences=True),
        Bidirectional__apart=lambda: _both_ways("GRU", merge_mode=None, return_sequences=True),
        Bidirectional__return_state=lambda: _both_ways("LSTM", return_state=True),
        TimeDistributed=lambda: layers.TimeDistributed(layers.Dense(3, name="inner")),
    )
    yield _masked(
        Bidirectional__mask=lambda: _both_ways("LSTM", return_sequences=True),
        TimeDistributed__mask=lambda: layers.TimeDistributed(layers.Dense(3, name="inner")),
        GlobalAveragePooling1D__mask=layers.GlobalAveragePooling1D,
        BatchNormalization__mask=lambda: layers.BatchNormalization(momentum=0.9),
    )
    yield given(_SEQUENCE, data="padded_sequences")(
        Masking=layers.Masking, Masking__value=lambda: layers.Masking(mask_value=1.0)
    )
    yield given(Spec((3, 6, 5, 2)))(
        TimeDistributed__images=lambda: layers.TimeDistributed(layers.Conv2D(3, 3, name="inner"))
    )


CASES: dict[str, Case] = {name: case for cases in (*_recurrent(), *_loops()) for name, case in cases.items()}
