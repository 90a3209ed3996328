"""Float64 in PyTorch: convolutions that can be differentiated with kernels in Keras's layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional

__all__ = ["contiguous_kernels"]


@contextmanager
def contiguous_kernels() -> Iterator[None]:
    """Makes float64 convolutions differentiable with kernels in Keras's layout, for as long as the context lasts.

    Keras passes a transposed view of its kernel to PyTorch. In float64 on a CPU, PyTorch 2.13 cannot differentiate with
    respect to such a view if it has a single output channel: "slow_conv2d: grad_weight must be contiguous".

    Example:
        >>> kernel = torch.ones(3, 3, 2, 1, dtype=torch.float64, requires_grad=True)
        >>> with contiguous_kernels():
        ...     images = torch.ones(1, 2, 4, 4, dtype=torch.float64)
        ...     torch.nn.functional.conv2d(images, kernel.permute(3, 2, 0, 1)).sum().backward()
        >>> kernel.grad.unique()
        tensor([4.], dtype=torch.float64)
    """
    functions: Any = torch.nn.functional
    before = {name: getattr(functions, name) for name in ("conv1d", "conv2d", "conv3d")}

    def contiguous(convolve: Any) -> Any:
        def called(images: Any, kernel: Any, *args: Any, **keywords: Any) -> Any:
            return convolve(images, kernel.contiguous(), *args, **keywords)

        return called

    for name, convolve in before.items():
        setattr(functions, name, contiguous(convolve))
    try:
        yield
    finally:
        for name, convolve in before.items():
            setattr(functions, name, convolve)
