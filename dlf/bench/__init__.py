"""Times Keras's `fit`, dlf's fused engine and hand-written loops against one another.

Requirements:

* no contestant is given a speed before its results have been compared with those of Keras's `fit`;
* for each backend and model, the contestants take turns within one process, and each ratio is taken within a round;
* importing this package, or starting its workers, imports no framework.
"""

from __future__ import annotations

from dlf.bench.options import MODELS, BenchOptions
from dlf.bench.report import print_bench
from dlf.bench.runner import run_bench

__all__ = ["MODELS", "BenchOptions", "print_bench", "run_bench"]
