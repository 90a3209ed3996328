"""Times Keras's `fit`, dlf's fused engine and hand-written loops against one another.

What is asked of it:

* nothing is given a speed before its results have been compared with Keras's own;
* the contestants alternate within one process for each backend and model, and each ratio is taken within a round;
* importing it, and asking the workers, imports no framework.
"""

from __future__ import annotations

from dlf.bench.options import MODELS, BenchOptions
from dlf.bench.report import print_bench
from dlf.bench.runner import run_bench

__all__ = ["MODELS", "BenchOptions", "print_bench", "run_bench"]
