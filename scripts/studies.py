"""Studies of a model of the shapes world, where the truth is known: tables and plots of alignment, coverage
and fidelity with their bands, and a gallery.

    python scripts/studies.py guidance --workdir=embedded --output=runs/studies/guidance
    python scripts/studies.py steps --workdir=embedded --guidance_scale=2 --output=runs/studies/steps
    python scripts/studies.py captions --workdir=runs/long_0 --workdir=runs/long_50 --scales=1,2 \
        --output=runs/studies/captions
    python scripts/studies.py distance --workdir=embedded --output=runs/studies/distance
    python scripts/studies.py scales --workdir=embedded --output=runs/studies/scales
    python scripts/studies.py gallery --workdir=embedded --guidance_scale=2 --output=runs/studies/gallery.png
    python scripts/studies.py judge --output=runs/studies/judge.md

The first four write ``table.md``, ``table.csv``, ``results.json`` and ``plot.png`` into the output folder;
``scales`` writes the first and the last two, ``guidance.txt``, which is what ``--guidance`` takes, and the
first four of every band alone into ``bands``.
What is complete there is not made again: the same command goes on with a study that was stopped.
"""

import argparse
import sys
from typing import Any

from difflax.cli.main import ending, set_up
from difflax.core.files import writable_file, writable_folder
from difflax.core.spelling import choose
from difflax.core.types import UserError

SHOWN = (
    "a red circle",
    "a large striped blue heart",
    "a dotted teal square",
    "a small shape in the top left",
    "a green triangle left of a pink square",
    "a dotted orange triangle on a dark background, lit from the left",
)
"""The prompts of the gallery."""


def numbers(text: str) -> list[float]:
    """``0,1,2.5``."""
    return [float(part) for part in text.split(",")]


def whole(text: str) -> list[int]:
    """``1,2,4``."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """``ddim,ddpm``."""
    return text.split(",")


def make_parser() -> argparse.ArgumentParser:
    described = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0], formatter_class=described)
    studies = parser.add_subparsers(dest="study", required=True)
    own = {}
    for name, text in (
        ("guidance", "ways to guide against their scale"),
        ("steps", "samplers against the number of steps"),
        ("captions", "runs with different shares of long captions, asked in few and in many words"),
        ("distance", "combinations that were trained, and those at distance 1 and 2, against the scale"),
        ("scales", "the best scale of each noise level by search, beside the schedules of the literature"),
        ("gallery", "prompts by seeds at one scale, beside prompts by scales, in one picture"),
        ("judge", "how much of true renders, and of spoiled ones, the judge reads right: a table"),
    ):
        own[name] = studies.add_parser(name, help=text, description=text)
        own[name].add_argument(
            "--output", required=True, help="folder; of the gallery a PNG file, of the judge a Markdown file"
        )
    for name in ("guidance", "steps", "distance", "scales", "gallery"):
        own[name].add_argument("--workdir", required=True, help="of the run, or embedded")
    own["captions"].add_argument("--workdir", required=True, action="append", help="of a run; several times")
    for name in ("guidance", "steps"):
        own[name].add_argument("--kind", default="as trained", help="of prompts: as trained, short, long, …")
    for name in ("guidance", "steps", "captions", "distance"):
        own[name].add_argument("--prompts", type=int, default=64)
        own[name].add_argument("--seeds", type=int, default=8, help="pictures of each prompt")
    for name in ("captions", "distance", "gallery"):
        own[name].add_argument("--sampler", help="without it: the run's own")
        own[name].add_argument("--num_steps", type=int, help="without it: the run's own")
    for name in ("steps", "gallery"):
        own[name].add_argument("--guidance_scale", type=float, help="without it: the run's own")
    guidance = own["guidance"]
    guidance.add_argument("--sampler", default="ddim", help="the first-order one that CFG++ is made for")
    guidance.add_argument("--num_steps", type=int, default=32)
    guidance.add_argument("--methods", type=names, help="of all of them only these, cfg,apg")
    guidance.add_argument("--weak_step", type=int, help="of autoguidance; without it: the run's first one")
    guidance.add_argument("--interval", type=numbers, help="low,high in sigma / alpha of the limited CFG")
    guidance.add_argument("--rescale", type=float, default=0.7, help="share of the rescaling")
    own["steps"].add_argument("--samplers", type=names, help="without it: ddpm,ddim,dpmpp_2m")
    own["steps"].add_argument("--steps", type=whole, help="without it: 1 to 1000 in eleven numbers")
    own["steps"].add_argument(
        "--prompts_of_long_runs", type=int, help="in runs of more than 100 steps; without it: all"
    )
    scales = own["scales"]
    scales.add_argument("--kind", default="one object", help="of prompts: as trained, short, long, …")
    scales.add_argument("--prompts", type=int, default=20, help="of the search")
    scales.add_argument(
        "--held_out_prompts", type=int, default=64, help="others, of the comparison at the end"
    )
    scales.add_argument("--seeds", type=int, default=8, help="pictures of each prompt")
    scales.add_argument("--sampler", default="ddim")
    scales.add_argument("--num_steps", type=int, default=16)
    scales.add_argument("--bands", type=int, default=6, help="of log-SNR, into which the steps are cut")
    scales.add_argument("--constants", type=numbers, help="scales that are tried everywhere, 1,1.5,2")
    scales.add_argument("--of_literature", type=numbers, help="scales of each schedule of the literature")
    scales.add_argument("--grid", type=numbers, help="scales that are tried in one band")
    scales.add_argument("--passes", type=int, default=1, help="of coordinate descent, at most")
    own["judge"].add_argument("--scenes", type=int, default=1024)
    own["captions"].add_argument("--scales", type=numbers, default=[1.0, 2.0], help="of the guidance")
    own["distance"].add_argument("--scales", type=numbers, default=[0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0])
    own["gallery"].add_argument("--scales", type=numbers, default=[0.0, 1.0, 2.0, 4.0, 8.0])
    own["gallery"].add_argument("--seeds", type=whole, default=[0, 1, 2, 3], help="0,1,2,3")
    own["gallery"].add_argument("--prompt", action="append", help="several times; without it: six")
    # So that --help says what every study takes.
    parser.epilog = "\n".join(each.format_help() for each in own.values())
    return parser


def guidance(given: argparse.Namespace) -> Any:
    from difflax.runs import methods as ways
    from difflax.runs.studied import Studied
    from difflax.runs.studies import guidance_study

    step = ways.early_step(given.workdir) if given.weak_step is None else given.weak_step
    interval = ways.INTERVAL if given.interval is None else tuple(given.interval)
    if len(interval) != 2:
        raise UserError(f"--interval={given.interval}: give two numbers, low,high")
    methods = ways.guidance_methods(step, interval, given.rescale)
    chosen = given.methods or list(methods)
    if step is None:
        said = f"{given.workdir} has one checkpoint alone, so no worse model for autoguidance"
        if "autoguidance" in chosen:
            raise UserError(f"{said}: leave it out of --methods")
        print(f"{said}: left out", file=sys.stderr)
    methods = {name: choose(methods, name, "--methods") for name in chosen}
    subject = Studied.of(given.workdir, given.kind, given.prompts, given.seeds)
    return guidance_study(subject, methods, given.output, sampler=given.sampler, num_steps=given.num_steps)


def steps(given: argparse.Namespace) -> Any:
    from difflax.runs import studies
    from difflax.runs.studied import Studied

    subject = Studied.of(given.workdir, given.kind, given.prompts, given.seeds)
    return studies.steps_study(
        subject,
        given.output,
        samplers=given.samplers or studies.STEP_SAMPLERS,
        steps=given.steps or studies.STEP_COUNTS,
        scale=given.guidance_scale,
        prompts_of_long_runs=given.prompts_of_long_runs,
    )


def captions(given: argparse.Namespace) -> Any:
    from difflax.runs import studies

    return studies.captions_study(
        given.workdir,
        given.output,
        prompts=given.prompts,
        seeds=given.seeds,
        scales=given.scales,
        sampler=given.sampler,
        num_steps=given.num_steps,
    )


def distance(given: argparse.Namespace) -> Any:
    from difflax.runs import studies

    return studies.distance_study(
        given.workdir,
        given.output,
        prompts=given.prompts,
        seeds=given.seeds,
        scales=given.scales,
        sampler=given.sampler,
        num_steps=given.num_steps,
    )


COMPARISONS = {"guidance": guidance, "steps": steps, "captions": captions, "distance": distance}


def compare(given: argparse.Namespace) -> None:
    """A study that ends in a table and a plot."""
    from difflax.evaluation.ablation.comparison import comparison_markdown, write_comparison
    from difflax.parallel.processes import alone_in

    writable_folder(given.output, f"--output={given.output}")
    with alone_in(given.output):
        comparison = COMPARISONS[given.study](given)
        write_comparison(comparison, given.output)
    print(comparison_markdown(comparison))
    print(f"plot: {given.output}/plot.png")


def scales(given: argparse.Namespace) -> None:
    """The search for the right scale, whose tables differ from the others'."""
    from difflax.evaluation.ablation.comparison import write_comparison
    from difflax.evaluation.ablation.scale_report import scales_markdown, write_scales
    from difflax.parallel.processes import alone_in
    from difflax.runs.scales import ScaleSearch, scales_study
    from difflax.runs.scales_shown import bands_comparison, scale_tables
    from difflax.runs.studied import Studied

    tried = {name: getattr(given, name) for name in ("constants", "of_literature", "grid")}
    tried = {name: tuple(values) for name, values in tried.items() if values is not None}
    search = ScaleSearch(bands=given.bands, passes=given.passes, **tried)
    writable_folder(given.output, f"--output={given.output}")
    with alone_in(given.output):
        number = given.prompts + given.held_out_prompts
        subject = Studied.of(given.workdir, given.kind, number, given.seeds)
        asked = {"held_out_prompts": given.held_out_prompts, "sampler": given.sampler}
        asked["num_steps"] = given.num_steps
        study = scales_study(subject, search, given.output, **asked)
        tables = scale_tables(study, subject, search, **asked)
        write_scales(tables, given.output)
        write_comparison(bands_comparison(study, subject, **asked), f"{given.output}/bands")
    print(scales_markdown(tables))
    print(f"schedule: {given.output}/guidance.txt\nplot: {given.output}/plot.png")


def gallery(given: argparse.Namespace) -> None:
    """The gallery, with its command in the picture's text."""
    from difflax import runs
    from difflax.evaluation.ablation.results import command_line
    from difflax.figures.gallery import gallery as hang
    from difflax.figures.png import save_png
    from difflax.runs.studies import gallery_blocks

    path = writable_file(given.output, f"--output={given.output}")
    pipeline = runs.load(given.workdir)
    prompts = given.prompt or list(SHOWN)
    scale = given.guidance_scale
    if scale is None:
        scale = float(getattr(pipeline.defaults.guidance, "scale", 1.0))
    asked = {
        "seeds": given.seeds,
        "scale": scale,
        "scales": given.scales,
        "sampler": given.sampler,
        "num_steps": given.num_steps,
    }
    blocks = gallery_blocks(pipeline, prompts, **asked)
    facts = {"command": command_line(), "prompts": prompts, "step": pipeline.model.step, **asked}
    save_png(path, hang(prompts, blocks), facts)
    print(f"gallery: {path}")


def judge(given: argparse.Namespace) -> None:
    """The table of the judge's reliability."""
    from difflax.evaluation.judges.shapes.reliability import reliability, reliability_markdown

    if given.scenes < 1:
        raise UserError(f"--scenes={given.scenes}: give at least 1")
    path = writable_file(given.output, f"--output={given.output}")
    table = reliability_markdown(reliability(given.scenes))
    path.write_text(table)
    print(table)


ALONE = {"gallery": gallery, "judge": judge, "scales": scales}
"""Studies that write files of their own."""


def main() -> int:
    given = make_parser().parse_args()
    set_up()
    return ending(lambda: ALONE.get(given.study, compare)(given))


if __name__ == "__main__":
    sys.exit(main())
