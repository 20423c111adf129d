"""At which noise levels does the prompt count? Gives the prompt for a part of every run alone, until a noise
level or from it on, and another prompt or none for the rest, and has the run's judge read which of the
factors that the prompt names are right, and which factors of any kind change against the run that keeps its
prompt: a table and a plot.

    difflax switches --workdir=embedded --output=runs/switches
    difflax switches --workdir=embedded --other="a blue square" --kind="one object" --output=runs/switches

Of a model with several text encoders, --encoder=text_encoder_2 gives the other prompt to that one alone.

All runs of one seed start from the same noise. A sampler with a memory starts anew at the switch; ddim has
none.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from difflax.cli.models import begin, define_model_flags, read_model
from difflax.cli.sample import read_texts
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.data.shapes.examples import PROMPTS

SWITCH_STEPS, SWITCH_SAMPLER = 32, "ddim"


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values, steps=f"without it: {SWITCH_STEPS}", sampler=f"without it: {SWITCH_SAMPLER}")
    flags.DEFINE_string(
        "other", None, "the prompt of the rest of the run; without it: no prompt", flag_values=values
    )
    flags.DEFINE_string(
        "encoder",
        None,
        "the text encoder that reads the other prompt, text_encoder_2; without it: all do",
        flag_values=values,
    )
    flags.DEFINE_string(
        "kind", "as trained", f"of the prompts, one of {', '.join(PROMPTS)}", flag_values=values
    )
    flags.DEFINE_float(
        "guidance_scale",
        None,
        "how much the prompt counts, 1 is off; without it: that of the run",
        flag_values=values,
    )
    flags.DEFINE_integer("prompts", 32, "how many", 2, 10_000, flag_values=values)
    flags.DEFINE_integer("seeds", 4, "runs of each prompt", 2, 10_000, flag_values=values)
    flags.DEFINE_integer(
        "points", 12, "noise levels, evenly spread over the steps", 2, 1000, flag_values=values
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    if values.pretrained:
        raise UserError("--pretrained: a checkpoint has no judge that reads factors: give --workdir")
    choose(PROMPTS, values.kind, "--kind")
    negative = read_texts(values).get("negative_prompt")
    begin(values)
    from difflax.parallel.processes import alone_in

    with alone_in(values.output):
        _measure(values, negative)


def _measure(values: flags.FlagValues, negative: str | None) -> None:
    import jax

    from difflax.data.texts import argument_text
    from difflax.evaluation.ablation.comparison import comparison_markdown, write_comparison
    from difflax.runs.studied import Studied
    from difflax.runs.switches import switch_study

    comparison = switch_study(
        Studied.of(values.workdir, values.kind, values.prompts, values.seeds, pipeline=read_model(values)),
        argument_text(values.other or ""),
        points=values.points,
        scale=values.guidance_scale,
        sampler=values.sampler or SWITCH_SAMPLER,
        num_steps=values.num_steps or SWITCH_STEPS,
        negative_prompt=negative,
        encoder=values.encoder,
    )
    if jax.process_index() != 0:
        return
    if values.guidance is not None:
        comparison = dataclasses.replace(comparison, facts={**comparison.facts, "guidance": values.guidance})
    write_comparison(comparison, values.output)
    print(comparison_markdown(comparison))
    print(f"plot: {values.output}/plot.png")
