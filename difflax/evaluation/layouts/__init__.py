"""Folders of images as benchmarks read them, and their scores read back: one file a benchmark.

`LAYOUTS` has the names of ``difflax ablate --layout``.
"""

from difflax.evaluation.layouts.base import BenchmarkPrompt, Layout
from difflax.evaluation.layouts.geneval import GenEval
from difflax.evaluation.layouts.t2i_compbench import T2ICompBench

LAYOUTS: dict[str, Layout] = {"geneval": GenEval(), "t2i_compbench": T2ICompBench()}

__all__ = ["LAYOUTS", "BenchmarkPrompt", "GenEval", "Layout", "T2ICompBench"]
