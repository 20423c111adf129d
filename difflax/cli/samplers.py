"""Measures how fast every sampler's error falls with the number of steps, against exact solutions, and prints
the table or writes it into a page. All of them take a minute or two on a CPU.

    difflax samplers --names=heun,dpmpp_2m
    difflax samplers --output=docs/samplers.md
"""

from collections.abc import Sequence

from absl import flags

from difflax.core.files import atomic_write, writable_file
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
    from difflax.data.texts import read_text
    from difflax.diffusion.verification.orders import CLAIMS, order_table

    names = list(CLAIMS) if values.names is None else values.names
    for name in names:
        if name not in CLAIMS:
            raise UserError(f"--names: no sampler {name!r}{nearest(name, CLAIMS)}")
    if values.output is None:
        print(order_table(names))
        return
    page = writable_file(values.output, f"--output={values.output}")
    text = read_text(page) if page.exists() else ""
    if text.count(BEFORE) != 1 or text.count(AFTER) != 1 or text.index(BEFORE) > text.index(AFTER):
        raise UserError(f"--output={values.output}: no page with one {BEFORE} and one {AFTER} after it")
    before, rest = text.split(BEFORE)
    after = rest.split(AFTER)[1]
    table = order_table(names)
    with atomic_write(page, "w") as file:
        file.write(f"{before}{BEFORE}\n{table}\n{AFTER}{after}")
    print(f"{len(names)} samplers: {page}")
