"""What a sweep keeps beside its numbers: every image, also as a benchmark's scripts read them, and how some
of them came about.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from difflax.core.types import UserError

MOST_FOLLOWED = 100


def define_kept_flags(values: flags.FlagValues) -> None:
    """The flags of this."""
    flags.DEFINE_bool(
        "save_images",
        None,
        "keep every image, for `difflax view`; without it: as --layout says",
        flag_values=values,
    )
    flags.DEFINE_string(
        "layout",
        None,
        "benchmark whose file --prompts_file is and whose scripts read the kept images: geneval or"
        " t2i_compbench; without it: none",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "trajectories",
        0,
        f"prompts of each group, from 0 to {MOST_FOLLOWED}, that the report also shows step by step: at the"
        " best arm, without guidance and at the largest scale",
        lower_bound=0,
        upper_bound=MOST_FOLLOWED,
        flag_values=values,
    )


def layout_of(values: flags.FlagValues) -> str | None:
    """The name that ``--layout`` gives, of commands that have the flag."""
    return values.layout if "layout" in values else None


def read_asked(values: flags.FlagValues) -> list:
    """The prompts of the benchmark that ``--layout`` names."""
    from difflax.core.spelling import choose
    from difflax.evaluation.layouts import LAYOUTS

    layout = choose(LAYOUTS, values.layout, "--layout")
    if values.prompt or values.prompts_file is None:
        raise UserError(
            f"--layout={values.layout}: give the file of {layout.title}'s prompts as --prompts_file"
        )
    return layout.read_prompts(values.prompts_file, f"--prompts_file={values.prompts_file}")


def album_of(values: flags.FlagValues, groups: Sequence[Any], seeds: int) -> Any:
    """What keeps the images, if that is asked; ``None`` if not.

    Args:
        groups: of prompts.
        seeds: images of each prompt.
    """
    from difflax.evaluation.ablation.pictures import Album

    layout = layout_of(values)
    if "save_images" not in values or not (layout if values.save_images is None else values.save_images):
        return None
    facts = [each.facts for each in read_asked(values)] if layout else ()
    named = [(group.name, group.prompts) for group in groups]
    return Album(values.output, named, range(seeds), layout or "", facts)
