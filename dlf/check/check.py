"""Reads source code and lists what ties it to one framework."""

from __future__ import annotations

import os

from dlf.check._reader import read
from dlf.check._source import read_sources
from dlf.check.result import CheckResult

__all__ = ["check_source"]


def check_source(*paths: str | os.PathLike[str]) -> CheckResult:
    r"""Returns what ties Keras code to one framework, by file and line, with what to write instead; it runs nothing.

    Args:
        paths: Files of Python code, notebooks, and folders of them. Files that are named together may import from one
            another.

    Returns:
        The findings. None is no proof that the code runs everywhere: `dlf parity` runs it.

    Raises:
        InvalidArgumentError: A path is not there, or is no Python code.
        MissingPackageError: Keras is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.py"
        >>> _ = file.write_text(
        ...     "import keras, tensorflow as tf\n"
        ...     "class Half(keras.layers.Layer):\n"
        ...     "    def call(self, inputs):\n"
        ...     "        return tf.reduce_sum(inputs) / 2\n"
        ... )
        >>> [(each.line, each.rule, each.advice) for each in check_source(file).findings]
        [(4, 'tensorflow-op', 'keras.ops.sum')]
    """
    sources, not_read = read_sources([os.fspath(each) for each in paths])
    return CheckResult(tuple(read(sources)), len(sources), not_read)
