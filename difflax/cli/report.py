"""Rebuilds the report of a sweep from its stored results, joins several results into one, and checks stored
cells by computing them again.

    difflax report runs/ablation
    difflax report runs/ablation runs/other --output=runs/joined
    difflax report runs/ablation --verify=0.05

Results that were measured alike are compared in pairs; those that differ in their manifest are shown side by
side, under a warning. Votes of `difflax view` and scores of a benchmark enter the tables here, and every plot
is written as PDF too.
"""

import math
import os
from collections.abc import Sequence

from absl import flags

from difflax.cli.folders import folders_given
from difflax.core.types import UserError

MOST_RESULTS = 100


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    flags.DEFINE_list(
        "folders", [], "folders of results, must be given; bare words are such", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "folder of the report; without it: that of the only result", flag_values=values
    )
    flags.DEFINE_float(
        "verify",
        None,
        "share of the arms to compute again, which must come out the same bit for bit; without it: none",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    folders = folders_given("folders", values.folders, 1, MOST_RESULTS)
    if values.verify is not None and not (math.isfinite(values.verify) and 0 < values.verify <= 1):
        raise UserError(f"--verify={values.verify} must be above 0 and at most 1: the share of the arms")
    if values.output is None and len(folders) > 1:
        raise UserError("--output must be given: the folder of the joined report")
    from difflax.evaluation.ablation.benchmarks import with_scores
    from difflax.evaluation.ablation.stored import read_result

    named = zip(names_of(folders), folders, strict=True)
    results = {name: with_scores(read_result(folder), folder) for name, folder in named}
    if values.verify is not None:
        from difflax.cli.recompute import verify

        for folder, result in zip(folders, results.values(), strict=True):
            verify(folder, result, values.verify)
    output = values.output or folders[0]
    print(f"report: {_write(results, folders, output)}")


def names_of(folders: Sequence[str]) -> list[str]:
    """A short name for each folder: its last parts, as many as tell all apart."""
    parts = [os.path.abspath(folder).split(os.sep) for folder in folders]
    if len(set(map(tuple, parts))) < len(parts):
        raise UserError("--folders: the same folder is there twice, give each once")
    depth = 1
    while len({tuple(each[-depth:]) for each in parts}) < len(parts):
        depth += 1
    return ["/".join(each[-depth:]) for each in parts]


def _write(results, folders: Sequence[str], output: str):
    from etils import epath

    from difflax.core.files import atomic_write
    from difflax.evaluation.ablation.joined import join, side_by_side, warning_of
    from difflax.evaluation.ablation.manifests import differing, measured_differently
    from difflax.evaluation.ablation.report import write_ablation

    everything = list(results.values())
    if len(everything) == 1:
        return write_ablation(everything[0], output, source=folders[0], pdf=True)
    apart = measured_differently(differing(everything))
    if not apart:
        return write_ablation(join(results), output, pdf=True, warning=warning_of(results))
    print(f"difflax: warning: these results differ in {', '.join(apart)}: they are shown side by side only")
    page, files = side_by_side(results)
    for name, data in {**files, "report.html": page.encode()}.items():
        with atomic_write(epath.Path(output) / name) as file:
            file.write(data)
    return epath.Path(output) / "report.html"
