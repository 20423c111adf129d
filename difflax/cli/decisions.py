"""At which noise level is each factor of the picture decided? Ends every run many times from each of some
noise levels with fresh noise, has the run's judge read all factors, and measures what still differs: a table,
a plot, and the log-SNR at which each factor is half decided.

    difflax decisions --workdir=runs/shapes --output=runs/decisions
    difflax decisions --workdir=runs/shapes --prompt="a circle" --restarts=16 --output=runs/decisions

The sampler must be one that adds noise. With ddpm and many steps the ends are draws of what the model takes
for possible, given the noisy picture.
"""

from collections.abc import Sequence

from absl import flags

from difflax.cli.models import begin, define_model_flags, read_model, weights_named
from difflax.cli.sample import define_prompt_flags, read_prompts, read_texts
from difflax.core.types import UserError

USUAL_STEPS, USUAL_SAMPLER = 50, "ddpm"


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values, steps=f"without it: {USUAL_STEPS}", sampler=f"without it: {USUAL_SAMPLER}")
    define_prompt_flags(values)
    flags.DEFINE_float(
        "guidance_scale",
        None,
        "how much the prompt counts, 1 is off; without it: that of the run",
        flag_values=values,
    )
    flags.DEFINE_integer("seeds", 2, "runs of each prompt", 1, 10_000, flag_values=values)
    flags.DEFINE_integer("restarts", 8, "ends of each run at each noise level", 2, 10_000, flag_values=values)
    flags.DEFINE_integer(
        "points", 12, "noise levels, evenly spread over the steps", 2, 1000, flag_values=values
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    if values.pretrained:
        raise UserError("--pretrained: a checkpoint has no judge that reads factors: give --workdir")
    prompts = read_prompts(values) if values.prompt or values.prompts_file else None
    begin(values)
    from difflax.parallel.processes import alone_in

    with alone_in(values.output):
        _measure(values, prompts)


def _measure(values: flags.FlagValues, prompts: list[str] | None) -> None:
    import jax
    import numpy as np

    from difflax import runs
    from difflax.evaluation.ablation.results import command_line
    from difflax.evaluation.decision_files import write_decisions
    from difflax.evaluation.decisions import apart, decide
    from difflax.figures.grids import labelled_grid
    from difflax.figures.png import save_png
    from difflax.figures.trajectory import show_log_snr

    reader, source = runs.factor_reader(values.workdir)
    prompts = list(dict.fromkeys(reader.open_prompts(source) if prompts is None else prompts))
    pipeline = read_model(values)
    call = {
        "num_steps": values.num_steps or USUAL_STEPS,
        "sampler": values.sampler or USUAL_SAMPLER,
        "negative_prompt": read_texts(values).get("negative_prompt"),
        "guidance_scale": values.guidance_scale,
    }
    of_groups = [prompt for prompt in prompts for _ in range(values.seeds)]
    spreads, steps, log_snr, shown = [], [], [], []
    for found in runs.restarts(
        pipeline, prompts, seeds=values.seeds, number=values.restarts, points=values.points, **call
    ):
        distances = reader.differences(found.images, of_groups)
        spreads.append({name: apart(values) for name, values in distances.items()})
        steps.append(found.step)
        log_snr.append(found.log_snr)
        shown.append(found.images[0, :4])
    if jax.process_index() != 0:
        return
    decisions = decide(
        {name: np.stack([spread[name] for spread in spreads]) for name in spreads[0]},
        np.array(log_snr),
        np.repeat(np.arange(len(prompts)), values.seeds),
    )
    counts = {"seeds": values.seeds, "restarts": values.restarts}
    facts = {
        "command": command_line(),
        "checkpoint": weights_named(values, pipeline),
        **call,
        "guidance": values.guidance,
        **counts,
        "prompts": prompts,
    }
    write_decisions(decisions, steps, log_snr, values.output, facts)
    heads = [f"step {step}\n{show_log_snr(level)}" for step, level in zip(steps, log_snr, strict=True)]
    rows = [[images[i] for images in shown] for i in range(len(shown[0]))]
    grid = labelled_grid(rows, [prompts[0]] * len(rows), heads, corner="restarted after, log-SNR")
    save_png(f"{values.output}/restarts.png", grid, facts)
    for decision in decisions:
        half = decision.half
        ends = f"{show_log_snr(half.low)} … {show_log_snr(half.high)}"
        print(f"{decision.name:<12} half decided at log-SNR {show_log_snr(half.value)} ({ends})")
    if not decisions:
        print("the judge could read no factor that the prompts leave open: the model shows nothing yet")
    print(f"plot: {values.output}/decisions.png")
