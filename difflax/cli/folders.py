"""Folders that a command takes bare, without the name of a flag: ``difflax view runs/ablation``."""

from collections.abc import Sequence

from etils import epath

from difflax.core.types import UserError


def folders_given(flag: str, given: Sequence[str], least: int, most: int) -> list[str]:
    """The folders, from ``least`` to ``most`` of them, all there.

    Args:
        flag: the flag that holds them, for the error.

    Raises:
        UserError: there are too few or too many, or one is not there.
    """
    if not least <= len(given) <= most:
        asked = "a folder" if (least, most) == (1, 1) else f"{least} folders" if least == most else "folders"
        raise UserError(f"--{flag}: give {asked} of results, got {len(given)}")
    for folder in given:
        if not epath.Path(folder).is_dir():
            raise UserError(f"no folder {folder}: give the --output of an earlier command")
    return list(given)
