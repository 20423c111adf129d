"""The model that comes with difflax, by name: ``embedded`` in place of the folder of a training run.

It lies in the installed package, is made by ``scripts/make_embedded.py`` and is only read. The text
``embedded`` always means it; a folder of that name is written ``./embedded``.
"""

from etils import epath

from difflax.core.types import UserError
from difflax.training.runtime.manifest import damage

EMBEDDED = "embedded"
SHIPPED = epath.Path(__file__).parent.parent / EMBEDDED
"""Where it lies in this installation, if it has one."""


def find_workdir(workdir: epath.PathLike) -> epath.PathLike:
    """The folder of a run to read: that of the shipped model for its name, any other as it is.

    Raises:
        UserError: the shipped model is wanted, and is not in this installation or is damaged.
    """
    if workdir != EMBEDDED:
        return workdir
    if not SHIPPED.exists():
        raise UserError(
            f"this installation has no {EMBEDDED!r} model: train one (difflax train"
            f" --config=configs/shapes.py), or write ./{EMBEDDED} for a folder of that name"
        )
    if found := damage(SHIPPED):
        raise UserError(
            f"the {EMBEDDED!r} model of this installation is damaged ({found}): install difflax again"
        )
    return SHIPPED


def refuse_embedded(workdir: epath.PathLike) -> None:
    """Refuses to write into the shipped model.

    Raises:
        UserError: ``workdir`` is its name.
    """
    if workdir == EMBEDDED:
        raise UserError(
            f"--workdir={EMBEDDED} is the model that comes with difflax, which is only read: choose another"
            f" name, or write ./{EMBEDDED} for a folder"
        )
