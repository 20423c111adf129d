"""Why do two results of "the same" model differ? Swaps one thing at a time, on the same prompts and seeds,
and says what each has to do with the gap: a table, a waterfall with bands, and what nothing explains.

    difflax explain runs/a runs/b --output=runs/why

Both are folders of `difflax ablate` or `difflax evaluate` on this machine. Of up to four causes every mixture
is drawn, and shares are means over all orders of swapping (Shapley); of more, a cause is swapped first and
swapped last.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from absl import flags

from difflax.cli.folders import folders_given
from difflax.core.types import UserError

SETTINGS = ("sampler", "num_steps", "negative_prompt", "guidance")
"""Flags that are axes too."""


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    flags.DEFINE_list(
        "folders", [], "the two folders of results, must be given; bare words are such", flag_values=values
    )
    flags.DEFINE_list(
        "arms",
        None,
        "the arm of each result, by its key in results.json; without it: each result has one arm",
        flag_values=values,
    )
    flags.DEFINE_string(
        "metric",
        None,
        "what is explained, a column of records.csv or prompts.csv; without it: what decides the best arm",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "folder of the explanation; must be given", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    folders = folders_given("folders", values.folders, 2, 2)
    if not values.output:
        raise UserError("--output must be given: the folder of the explanation")
    if values.arms is not None and len(values.arms) != 2:
        raise UserError(f"--arms={','.join(values.arms)}: give the keys of two arms, one of each result")
    from difflax.parallel.processes import alone_in

    with alone_in(values.output):
        _explain(values, folders)


def _explain(values: flags.FlagValues, folders: Sequence[str]) -> None:
    from difflax.cli.report import names_of
    from difflax.evaluation.ablation.explanation import explain, explanation_json, write_text
    from difflax.evaluation.ablation.stored import read_result
    from difflax.evaluation.ablation.waterfall import explanation_page, table_rows

    results = [read_result(folder) for folder in folders]
    prompts = [[(group.name, group.prompts) for group in result.groups] for result in results]
    if prompts[0] != prompts[1]:
        raise UserError("the two results have other prompts: nothing can be compared prompt by prompt")
    keys = values.arms or (None, None)
    places = [_place(*each) for each in zip(results, folders, keys, strict=True)]
    asked = [Asked(result.provenance.command) for result in results]
    sides = [_side(*each) for each in zip(results, asked, places, strict=True)]
    if asked[0].source != asked[1].source:
        other = {"model": asked[1].source, **sides[1].settings}
        sides[1] = dataclasses.replace(sides[1], settings=other)
    metric = values.metric or results[0].primary
    stored = tuple(
        {each.group: each.estimates[place].value for each in result.measured if each.metric.name == metric}
        for result, place in zip(results, places, strict=True)
    )
    measure = _measure(asked, sides[0].evaluator, values.output)
    found, explained = explain(*sides, stored, metric, measure)
    names = tuple(names_of(folders))
    commands = [result.provenance.command for result in results]
    page, files = explanation_page(found, explained, names, commands)
    document = explanation_json(found, explained, names, commands)
    write_text(values.output, {**files, "explanation.json": document, "explanation.html": page})
    for each in explained:
        print(f"{each.metric.label}, {each.group}: {each.attribution.orders}")
        for name, one, other, share, band in table_rows(found, each):
            ends = f" ({one} → {other})" if one else ""
            print(f"  {name}{ends}: {share}" + (f" ({band})" if band else ""))
    print(f"explanation: {values.output}/explanation.html")


def _place(result, folder: str, key: str | None) -> int:
    """The number of the arm that is meant."""
    keys = [arm.key for arm in result.arms]
    if key is None and len(keys) > 1:
        raise UserError(f"{folder} has {len(keys)} arms: give --arms=KEY,KEY, one of each result")
    if key is not None and key not in keys:
        raise UserError(f"{folder} has no arm {key!r}: its keys are {', '.join(keys[:20])}")
    return 0 if key is None else keys.index(key)


class Asked:
    """The flags that a result was made with, read from its command.

    Raises:
        UserError: no command of this program made it.
    """

    def __init__(self, command: str):
        from difflax.cli.main import module_of, parse
        from difflax.cli.recompute import RERUN

        words = shlex.split(command.splitlines()[0]) if command.strip() else []
        if len(words) < 2 or words[1] not in RERUN:
            raise UserError(f"a result was not made by one `difflax {RERUN[0]}` command: {command!r}")
        self.flags = parse(module_of(words[1]), words[1], words[2:])
        self.source = self.flags.workdir or self.flags.pretrained

    @property
    def settings(self) -> dict[str, Any]:
        """What the flags set, by axis."""
        given = {name: self.flags[name].value for name in SETTINGS if name in self.flags}
        return {name: value for name, value in given.items() if value not in (None, "")}


def _side(result, asked: Asked, place: int):
    from difflax.evaluation.ablation.explanation import Side
    from difflax.evaluation.ablation.manifests import digest

    read = {name: result.method.get(name, "") for name in ("features", "images")}
    real = [(group.name, group.real) for group in result.groups]
    evaluator = f"{result.provenance.judge or 'no judge'}, {digest([read, real])}"
    settings = {**asked.settings, **result.arms[place].settings}
    return Side(settings=settings, seeds=tuple(result.seeds), evaluator=evaluator)


def _measure(asked: Sequence[Asked], usual: str, output: str):
    """What draws arms by the model of the first result, and reads them as the side says.

    Args:
        usual: the evaluator of the first result.
    """
    from difflax.cli.ablate import check_flags, read_subject
    from difflax.cli.models import begin
    from difflax.evaluation.ablation.manifests import digest
    from difflax.evaluation.ablation.results import Provenance, command_line
    from difflax.evaluation.ablation.sweep import run_sweep

    subjects: dict[int, Any] = {}

    def subject(number: int) -> Any:
        if number not in subjects:
            own = asked[number].flags
            prompts, _ = check_flags(own)
            for name in SETTINGS:
                if name in own:
                    own[name].value = None  # the arms set them
            subjects[number] = read_subject(own, prompts, None)
        return subjects[number]

    def measure(arms, side) -> Any:
        base = subject(0)
        reader = base if side.evaluator == usual else subject(1)
        base.studio.check(arms)
        pipeline = base.studio.base
        return run_sweep(
            base.studio.painter(),
            reader.groups,
            arms=arms,
            seeds=side.seeds,
            provenance=Provenance(
                command=command_line(),
                checkpoint=base.checkpoint,
                sampler=type(pipeline.defaults.sampler).__name__,
                num_steps=pipeline.defaults.num_steps,
                judge=reader.judge,
                config=base.config,
                fingerprint=pipeline.fingerprint(),
            ),
            directory=f"{output}/mixtures/{digest([list(side.seeds), side.evaluator])}",
            instruments=reader.instruments,
            batch_size=pipeline.devices.batch_size,
        )

    asked[0].flags["output"].value = output
    begin(asked[0].flags)
    return measure
