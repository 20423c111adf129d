"""Why do two results of "the same" model differ? Swaps one thing at a time, on the same prompts and seeds or
the same sets of images, and says what each has to do with the gap: a table, a waterfall with bands, and what
nothing explains.

    difflax explain runs/a runs/b --output=runs/why
    difflax explain one.json other.json --metric=fid --output=runs/why

They are folders of `difflax ablate` or `difflax evaluate` on this machine, or files of `difflax measure`
whose images, references and weights are still there. Of up to four causes every mixture is measured, and
shares are means over all orders of swapping (Shapley); of more, a cause is swapped first and swapped last.
"""

from collections.abc import Sequence

from absl import flags
from etils import epath

from difflax.cli.folders import folders_given
from difflax.core.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    flags.DEFINE_list(
        "folders",
        [],
        "the two results, folders of ablate and evaluate or files of measure, must be given; bare words are"
        " such",
        flag_values=values,
    )
    flags.DEFINE_list(
        "arms",
        None,
        "the arm of each result of a sweep, by its key in results.json; without it: each result has one arm",
        flag_values=values,
    )
    flags.DEFINE_string(
        "metric",
        None,
        "what is explained: of sweeps a column of records.csv or prompts.csv, of files of measure a number in"
        " both; without it: what decides the best arm, or the first such number",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "folder of the explanation; must be given", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    measured = [epath.Path(place).is_file() for place in values.folders]
    if len(measured) == 2 and any(measured):
        if not all(measured):
            raise UserError("one result is a file of measure and the other is none: give two of a kind")
        results = list(values.folders)
    else:
        results = folders_given("folders", values.folders, 2, 2)
    if not values.output:
        raise UserError("--output must be given: the folder of the explanation")
    if values.arms is not None and (any(measured) or len(values.arms) != 2):
        said = "give the keys of two arms, one of each result of a sweep"
        raise UserError(f"--arms={','.join(values.arms)}: {said}")
    from difflax.parallel.processes import alone_in

    with alone_in(values.output):
        if any(measured):
            from difflax.cli.report import names_of
            from difflax.runs.explain_measured import explain_measured

            comparison = explain_measured(
                *results, names=names_of(results), metric=values.metric, output=values.output
            )
        else:
            from difflax.cli.explain_sweeps import explain_sweeps

            comparison = explain_sweeps(results, values.arms, values.metric, values.output)
        _write(comparison, values.output)


def _write(comparison, output: str) -> None:
    from difflax.evaluation.ablation.explanation import explanation_json, write_text
    from difflax.evaluation.ablation.waterfall import explanation_page, table_rows

    page, files = explanation_page(comparison)
    document = explanation_json(comparison)
    write_text(output, {**files, "explanation.json": document, "explanation.html": page})
    for each in comparison.explained:
        print(f"{each.metric.label}, {each.group}: {each.attribution.orders}")
        for name, one, other, share, band in table_rows(comparison.causes, each):
            ends = f" ({one} → {other})" if one else ""
            print(f"  {name}{ends}: {share}" + (f" ({band})" if band else ""))
    for cause in comparison.untouched:
        print(f"not swapped: {cause.name} ({cause.first} → {cause.second})")
    print(f"explanation: {output}/explanation.html")
