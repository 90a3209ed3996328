"""What pytest finds of dlf wherever dlf is installed: the marker `parity` and the fixture `assert_parity`.

What is asked of it:

* importing it imports neither Keras nor a framework: it is imported in every test suite of the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["assert_parity", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line("markers", "parity: compares a model across backends, in processes of their own; seconds.")


@pytest.fixture
def assert_parity() -> Callable[..., dict[str, Any]]:
    """`dlf.testing.assert_parity`, imported where a test asks for it."""
    from dlf.testing import assert_parity as found

    return found
