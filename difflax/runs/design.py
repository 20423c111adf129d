"""The arms of a sweep as a user gives them: axes on the command line, or a JSON file.

    {"axes": {"guidance.scale": "1:4:0.1", "sampler": ["ddim", "heun"]}, "design": "random", "number": 20}
    {"arms": [{"guidance": "cfg", "guidance.scale": 2}, {"guidance": "apg", "guidance.scale": 6}]}

It is no section of a config: a config says how a model is trained and is stored with it, a sweep is asked of
a model that is there, and its results hold its arms.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.core.documents import read_json
from difflax.core.spelling import choose, nearest, shown
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import (
    GUIDANCE_SCALE,
    MAX_ARMS,
    Arm,
    Axis,
    arms_of_scales,
    check_arms,
    check_axis,
    grid,
    random_design,
)
from difflax.evaluation.ablation.values import plain, read_values
from difflax.generation.rows import whole
from difflax.runs.axes import SWEPT_AXES

DESIGNS = ("grid", "random")
"""Every combination of the axes' values, or a number of them that are drawn."""

_KEYS = ("axes", "arms", "design", "number", "seed")


def read_axes(texts: Mapping[str, Any], where: str) -> list[Axis]:
    """The axes with their values in the form that they are stored in.

    Args:
        texts: by the name of an axis the text that lists its values, or a list of JSON values.
        where: what stands before an axis's name in errors.

    Raises:
        UserError: an unknown axis, or a value that it cannot take.
    """
    axes = []
    for name, given in texts.items():
        if name not in SWEPT_AXES:
            raise UserError(f"{where}{name}: there is no such axis{nearest(name, SWEPT_AXES)}")
        values = read_values(given, f"{where}{name}") if hasattr(given, "encode") else given
        if not hasattr(values, "append"):
            raise UserError(f"{where}{name}={shown(given)}: give a list of values ({SWEPT_AXES[name].takes})")
        read = tuple(SWEPT_AXES[name].read(plain(value), f"{where}{name}") for value in values)
        axis = Axis(name=name, values=read, label=SWEPT_AXES[name].label)
        check_axis(axis, f"{where}{name}")
        axes.append(axis)
    return axes


def read_arms(
    texts: Mapping[str, str],
    *,
    file: epath.PathLike | None = None,
    design: str = "grid",
    number: int | None = None,
    seed: int = 0,
) -> list[Arm]:
    """The arms of a design.

    Args:
        texts: the axes, see `read_axes`.
        file: a JSON file with ``axes``, beside which those of ``texts`` stand, and ``design``, ``number`` and
            ``seed`` if it likes; or with ``arms``.
        design: of `DESIGNS`.
        number: of the arms that a random design draws.
        seed: of a random design.

    Raises:
        UserError: no arms, one twice, an unknown axis, or a value that an axis cannot take.
    """
    axes = read_axes(texts, "--sweep.")
    if file is not None:
        document, file = _document(file), f"--sweep={file}"
        for key in document:
            if key not in _KEYS:
                raise UserError(f"{file} has a key {key!r} that no sweep has{nearest(key, _KEYS)}")
        if ("arms" in document) == ("axes" in document):
            raise UserError(f'{file}: give either "axes" or "arms"')
        if "arms" in document:
            if axes or len(document) > 1:
                raise UserError(f'{file}: "arms" are the whole design: give no axes or design beside them')
            return _listed(document["arms"], file)
        if not hasattr(document["axes"], "items"):
            raise UserError(f'{file}: "axes" holds no mapping of names to values')
        own = read_axes(document["axes"], f"{file}: ")
        if twice := {axis.name for axis in own} & {axis.name for axis in axes}:
            raise UserError(f"--sweep.{min(twice)} is in {file} too: give it once")
        axes = own + axes
        design, number = str(document.get("design", design)), document.get("number", number)
        seed = whole(document.get("seed", seed), f"{file}: seed", 0)
    choose(dict.fromkeys(DESIGNS), design, "design")
    if design == "random":
        if number is None:
            raise UserError("a random design needs a number of arms: --design=random --arms=20")
        return _in_order(random_design(axes, whole(number, "arms", 1, MAX_ARMS), seed))
    if number is not None:
        raise UserError(f"--arms={number} goes with --design=random: a grid has all its arms")
    return _in_order(grid(axes))


def _document(file: epath.PathLike) -> dict[str, Any]:
    if not epath.Path(file).is_file():
        raise UserError(f"--sweep={file}: no such file")
    try:
        return read_json(file, hint="give a JSON file")
    except UserError as error:
        raise UserError(f"--sweep: {error}") from error


def _listed(given: Any, file: str) -> list[Arm]:
    if not hasattr(given, "append") or not all(hasattr(settings, "items") for settings in given):
        raise UserError(f'{file}: "arms" holds no list of mappings of axes to values')
    arms = []
    for index, settings in enumerate(given):
        axes = read_axes({name: [value] for name, value in settings.items()}, f"{file}: arms[{index}]: ")
        arms.append(Arm(settings={axis.name: axis.values[0] for axis in axes}))
    check_arms(arms)
    return _in_order(arms)


def _in_order(arms: list[Arm]) -> list[Arm]:
    """Arms that differ in their scale alone stand in its order."""
    if all(list(arm.settings) == [GUIDANCE_SCALE] for arm in arms):
        return arms_of_scales([arm.settings[GUIDANCE_SCALE] for arm in arms])
    return arms
