"""The families of checkpoints, one file and one line each."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.core.documents import read_json
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.pretrained.components.text_encoders import EncoderOptions
from difflax.pretrained.families import sd, sd3, sdxl
from difflax.pretrained.families.family import Configs, Family
from difflax.pretrained.format.layout import INDEX, class_name

FAMILIES: dict[str, Family] = {
    "stable_diffusion": sd.STABLE_DIFFUSION,
    "stable_diffusion_xl": sdxl.STABLE_DIFFUSION_XL,
    "stable_diffusion_3": sd3.STABLE_DIFFUSION_3,
}


def read_configs(folder: epath.PathLike) -> Configs:
    """The configs of a pipeline folder, whose class says which family it is of.

    Raises:
        UserError: no pipeline folder, or a pipeline of another class.
    """
    folder = epath.Path(folder)
    if not (folder / INDEX).is_file():
        raise UserError(f"no {INDEX} in {folder}: give a pipeline folder in diffusers' layout")
    name = class_name(read_json(folder / INDEX))
    known = {pipeline.name: family for family in FAMILIES.values() for pipeline in family.pipelines}
    return choose(known, name, f"{folder / INDEX}: _class_name").read(folder)


def family_of_file(tensors: Mapping[str, Any], path: epath.PathLike) -> Family:
    """The family whose original layout a file's tensors are in.

    Raises:
        UserError: they are in none's.
    """
    known = {family.original.mark: family for family in FAMILIES.values() if family.original is not None}
    for mark, family in known.items():
        if any(name.startswith(mark) for name in tensors):
            return family
    titles = ", ".join(family.title for family in known.values())
    raise UserError(
        f"{path} is no checkpoint in the original layout of {titles}: it has no tensors under"
        f" {' or '.join(known)}"
    )


def check_options(family: Family, options: EncoderOptions, source: epath.PathLike) -> None:
    """Refuses options of a T5 for a checkpoint of a family that has none."""
    owned = set().union(*(owner.own_options for owner in FAMILIES.values()))
    for name in sorted(owned - family.own_options):
        if getattr(options, name) is not None:
            titles = " or ".join(owner.title for owner in FAMILIES.values() if name in owner.own_options)
            raise UserError(f"{name} is given, but {source} is no {titles}, which alone has a T5")
