"""Measures how fast every sampler's error falls with the number of steps, against exact solutions, and prints
the table or writes it into a page. All of them take a minute or two on a CPU.

    difflax samplers --names=heun,dpmpp_2m
    difflax samplers --output=docs/samplers.md
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from difflax.core.types import UserError

BEFORE, AFTER = "<!-- orders: difflax samplers -->", "<!-- end of orders -->"


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    names = "rows of the table by the names in its first column, one with a comma in quotes; without it: all"
    flags.DEFINE_list("names", None, names, flag_values=values)
    page = (
        f"a Markdown file in which what stands between {BEFORE} and {AFTER} is replaced by the table;"
        " without it: the table is printed"
    )
    flags.DEFINE_string("output", None, page, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    from difflax.core.spelling import nearest
    from difflax.diffusion.verification.orders import CLAIMS, order_table

    names = list(CLAIMS) if values.names is None else values.names
    for name in names:
        if name not in CLAIMS:
            raise UserError(f"--names: no sampler {name!r}{nearest(name, CLAIMS)}")
    if values.output is None:
        print(order_table(names))
        return
    page = pathlib.Path(values.output)
    text = page.read_text() if page.is_file() else ""
    if text.count(BEFORE) != 1 or text.count(AFTER) != 1 or text.index(BEFORE) > text.index(AFTER):
        raise UserError(f"--output={values.output}: no page with one {BEFORE} and one {AFTER} after it")
    before, rest = text.split(BEFORE)
    after = rest.split(AFTER)[1]
    page.write_text(f"{before}{BEFORE}\n{order_table(names)}\n{AFTER}{after}")
    print(f"{len(names)} samplers: {page}")
