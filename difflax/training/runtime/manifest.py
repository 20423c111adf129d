"""A folder's files with their sizes and checksums, in one file that is written last.

A checkpoint is whole if its manifest is there and every file is what the manifest says. Anything a crash, a
full disk or a bad cable leaves behind (a file cut short, emptied, lost, a flipped bit) differs from it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from difflax.core.files import atomic_write
from difflax.core.types import UserError

NAME = "manifest.json"

# What the checkpoint library writes after the manifest, or reads nothing from.
_BOOKKEEPING = ("_CHECKPOINT_METADATA", "commit_success.txt")

_BLOCK = 2**22  # bytes read at once


def write_manifest(folder: epath.Path, facts: dict[str, Any]) -> None:
    """Describes every file below ``folder`` in its manifest, with ``facts`` (JSON values) beside them.

    The manifest appears whole or not at all, and on a local disk only after the files' contents are on it.
    """
    names = sorted(_files(folder))
    with ThreadPoolExecutor(4) as pool:
        described = list(pool.map(lambda name: _describe(folder / name, sync=True), names))
    body = {"facts": facts, "files": dict(zip(names, described, strict=True))}
    with atomic_write(folder / NAME, "w") as file:
        file.write(json.dumps({**body, "sha256": _checksum(body)}, indent=1))
    _sync(folder)


def read_facts(folder: epath.Path) -> dict[str, Any] | None:
    """The facts of a folder's manifest; ``None`` where there is no readable one. Looks at no other file."""
    try:
        return _read(folder)["facts"]
    except ValueError:
        return None


def damage(folder: epath.Path, holding: Sequence[str] = ()) -> str | None:
    """What is wrong with a folder, in words; ``None`` if every file is what the manifest says.

    Args:
        holding: the folders that must have a file in it.
    """
    try:
        files = _read(folder)["files"]
    except ValueError as error:
        return str(error)
    for item in holding:
        if not any(name.startswith(f"{item}/") for name in files):
            return f"{NAME} knows no {item}"

    def check(name: str) -> str | None:
        path = folder / name
        try:
            if not path.exists():
                return f"{name} is missing"
            size = path.stat().length
            if size != files[name]["bytes"]:
                return f"{name} has {size} bytes in place of {files[name]['bytes']}"
            if _describe(path)["sha256"] != files[name]["sha256"]:
                return f"{name} has other contents than were written"
        except OSError as error:
            return f"{name} cannot be read ({error})"
        return None

    with ThreadPoolExecutor(4) as pool:
        found = [text for text in pool.map(check, sorted(files)) if text]
    if not found:
        return None
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return found[0] + more


def check_copy(folder: epath.Path) -> None:
    """Refuses a copy of weights or files in a workdir that is not what was written (`write_manifest`). One of
    an earlier version has no manifest, and is taken as it is.

    Raises:
        UserError: with what is wrong.
    """
    if (folder / NAME).exists() and (found := damage(folder)):
        raise UserError(
            f"{folder} is damaged ({found}): put back a copy of it, or delete it and start the training"
            " command again, which copies it anew"
        )


def _read(folder: epath.Path) -> dict[str, Any]:
    path = folder / NAME
    try:
        manifest = json.loads(path.read_bytes())
        claimed = manifest.pop("sha256")
        whole = claimed == _checksum(manifest)
        manifest["facts"].keys(), manifest["files"].keys()
    except FileNotFoundError as error:
        raise ValueError(f"{NAME} is missing, so it was not written to its end") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{NAME} cannot be read") from error
    if not whole:
        raise ValueError(f"{NAME} has other contents than were written")
    return manifest


def _files(folder: epath.Path) -> list[str]:
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += [f"{path.name}/{name}" for name in _files(path)]
        elif path.name not in (*_BOOKKEEPING, NAME) and not path.name.startswith(f".{NAME}"):
            found.append(path.name)
    return found


def _describe(path: epath.Path, *, sync: bool = False) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    if sync:
        _sync(path)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _sync(path: epath.Path) -> None:
    """Asks a local disk to keep what was written; object stores have done so when a write returns."""
    if "://" in str(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
