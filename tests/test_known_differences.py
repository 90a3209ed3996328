"""Each known difference is still there: what has been mended upstream does not stay in the list."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dlf.backend_registry import backend_names, is_installed, load_backend
from dlf.backend_report import backend_environment
from dlf.parity.known import KnownDifference, known_differences, with_reasons
from dlf.parity.verdict import Finding

INSTALLED = [name for name in backend_names() if is_installed(load_backend(name))]
RUN = """
import json, sys, warnings
import numpy as np
names = {}
exec(sys.stdin.read(), names)
import keras
found = np.asarray(keras.ops.convert_to_numpy(names["found"]), "float64")
print(json.dumps([list(found.shape), found.ravel().tolist()]))
"""


def shown(known: KnownDifference, backend: str) -> Any:
    command = [sys.executable, "-c", RUN]
    environment = backend_environment(load_backend(backend))
    ended = subprocess.run(
        command, input=known.shows, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    # What fails on one backend alone differs too.
    return json.loads(ended.stdout.splitlines()[-1]) if ended.returncode == 0 else ended.stderr.splitlines()[-1]


@pytest.mark.parity
@pytest.mark.skipif(len(INSTALLED) < 2, reason="a comparison takes two backends: see the nox session parity")
@pytest.mark.parametrize("known", known_differences(), ids=lambda each: each.name)
def test_it_is_still_there(known: KnownDifference) -> None:
    if known.backend not in INSTALLED:
        pytest.skip(f"{known.backend} is not installed")
    found = {name: shown(known, name) for name in INSTALLED}
    own = found.pop(known.backend)
    for other in found.values():
        assert not isinstance(other, str), f"it fails elsewhere too: {other}"
        differs = isinstance(own, str) or own[0] != other[0] or not np.allclose(own[1], other[1], rtol=1e-4, atol=1e-6)
        assert differs, f"{known.name} is mended: take it from the list"


def test_a_divergence_that_is_known_says_why() -> None:
    layer = {"path": "pool", "class": "AveragePooling2D", "config": {"padding": "same"}}
    wrong = Finding("forward", "pool", None, "torch", "diverged", 0.1)
    names = ["jax", "tensorflow", "torch"]
    (found,) = with_reasons([wrong], [layer], "SGD", names)
    assert "average pooling" in str(found.reason)
    assert found.verdict == "diverged"
    for other in (
        ([wrong], [layer | {"class": "MaxPooling2D"}], "SGD", names),
        ([wrong], [layer | {"config": {"padding": "valid"}}], "SGD", names),
        ([Finding("forward", "pool", None, "jax", "diverged", 0.1)], [layer], "SGD", names),
        ([Finding("state", "pool", None, "torch", "diverged", 0.1)], [layer], "SGD", names),
        ([Finding("forward", "pool", None, None, "diverged", 0.1)], [layer], "SGD", names[:2]),
    ):
        assert [each.reason for each in with_reasons(*other)] == [None]
    (found,) = with_reasons([Finding("forward", "pool", None, None, "diverged", 0.1)], [layer], "SGD", names[1:])
    assert found.reason is not None
