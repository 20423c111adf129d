"""Stored cells, computed again by the command that made them: every bit must be the same."""

import contextlib
import io
import math
import shlex
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
from etils import epath

from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.results import AblationResult

RERUN = ("ablate", "evaluate")
"""Commands whose cells can be computed again."""


WITHOUT = ("--save_images", "--nosave_images", "--trajectories=")
"""Flags that are left out: the images are drawn, but not kept."""

REPLACED = ("--output", "-output", "--trajectories")
"""Flags that are left out with the word after them."""


def verify(folder: str, result: AblationResult, share: float, seed: int | None = None) -> None:
    """Computes ``share`` of the arms again, drawn at random, and prints what was checked.

    The other cells are copied, so that the sweep goes on as if it had been stopped: the batches are the same.

    Args:
        seed: of the draw; a new one each time by default.

    Raises:
        UserError: a cell comes out differently, or the command cannot be run again here.
    """
    arms = list(result.arms)
    number = math.ceil(share * len(arms))
    chosen = [arms[i] for i in sorted(np.random.default_rng(seed).permutation(len(arms))[:number])]
    with tempfile.TemporaryDirectory(prefix="difflax-verify-") as made:
        words = command_for(result.provenance.command, made)
        cells = epath.Path(folder) / "cells"
        if not (cells / "sweep.json").exists():
            raise UserError(f"{folder} holds no cells: nothing can be computed again")
        keys = {arm.key for arm in chosen}
        (epath.Path(made) / "cells").mkdir()
        for path in cells.iterdir():
            if path.name.endswith((".npz", ".json")) and path.name.removesuffix(".npz") not in keys:
                shutil.copy(path, epath.Path(made) / "cells" / path.name)
        _rerun(folder, words)
        different = [arm.label for arm in chosen if not same_cell(cells, epath.Path(made) / "cells", arm)]
    said = f"{number} of {len(arms)} arms of {folder}"
    if different:
        raise UserError(f"{said} were computed again and {len(different)} differ: {'; '.join(different)}")
    print(f"verified: {said} come out the same bit for bit")


def command_for(command: str, output: str) -> list[str]:
    """The words of a stored command after ``difflax``, with another ``--output``.

    Raises:
        UserError: it is no command of `RERUN`.
    """
    words = shlex.split(command.splitlines()[0]) if command.strip() else []
    if len(words) < 2 or words[1] not in RERUN:
        raise UserError(f"the result was not made by one `difflax {RERUN[0]}` command: {command!r}")
    kept, skip = [], False
    for word in words[1:]:
        if skip or word in REPLACED:
            skip = not skip
        elif not word.startswith(("--output=", "-output=", *WITHOUT)):
            kept.append(word)
    # What a benchmark reads is not written again.
    quiet = ["--nosave_images"] if any(word.startswith("--layout") for word in kept) else []
    return [*kept, *quiet, f"--output={output}"]


def _rerun(folder: str, words: Sequence[str]) -> None:
    from difflax.cli.main import execute

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            execute(words[0], words[1:])
    except UserError as error:
        raise UserError(f"{folder} cannot be computed again here: {error}") from error


def same_cell(stored: epath.Path, computed: epath.Path, arm: Arm) -> bool:
    """Whether two folders of cells hold the same bits of an arm."""
    paths = [folder / f"{arm.key}.npz" for folder in (stored, computed)]
    if not all(path.exists() for path in paths):
        return False
    both = []
    for path in paths:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            both.append({name: arrays[name] for name in arrays.files})
    first, second = both
    return first.keys() == second.keys() and all(
        (first[name].dtype, first[name].shape, first[name].tobytes())
        == (second[name].dtype, second[name].shape, second[name].tobytes())
        for name in first
    )
