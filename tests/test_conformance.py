from __future__ import annotations

from dlf.backend_registry import current_backend
from dlf.testing import check_backend


def test_this_backend_conforms() -> None:
    check_backend(current_backend().name)
