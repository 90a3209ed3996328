"""The pytest plugin of dlf: the marker `parity` and the fixture `assert_parity`.

Requirements:

* importing the module imports neither Keras nor a framework, since pytest loads it in every test suite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["assert_parity", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker `parity`."""
    config.addinivalue_line("markers", "parity: compares a model across backends, in processes of their own; seconds.")


@pytest.fixture
def assert_parity() -> Callable[..., dict[str, Any]]:
    """Returns `dlf.testing.assert_parity`, which is imported only if a test requests this fixture."""
    from dlf.testing import assert_parity as found

    return found
