"""Files and folders that are there whole or not at all, however their writer ends.

What is written lies beside its place under a hidden name until it is complete, and is moved there in one
step. So "it exists" means "it is complete", and a reader never sees a part of it. An exception removes the
part. What a killed process left behind (`remove_unfinished`) is told from what another process is still
writing by a lock, which ends with its holder. Such a lock also keeps a whole folder for one process (`held`).
"""

import contextlib
import fcntl
import importlib.util
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from typing import IO

from etils import epath

from difflax.core.types import UserError

LOCK = ".lock"
"""The file in a folder that names the process which has it for itself; gone when that ends well."""


@contextlib.contextmanager
def atomic_write(path: epath.PathLike, mode: str = "wb") -> Iterator[IO]:
    """A file to write to, which is at ``path``, in place of one that is there, once the block has ended.

    Args:
        mode: "wb", or "w" for text in UTF-8. The folder of ``path`` is made if it is not there.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        with unfinished.open(mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            if _is_local(path):
                _lock(file.fileno())
            yield file
            file.flush()
            if _is_local(path):
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """An empty folder to write into, which is at ``path`` once the block has ended.

    Of several processes that make the same folder one wins, and the others' are removed. On an object store,
    which moves a folder file by file, a manifest that is written last has to say that it is whole.
    """
    path = epath.Path(path)
    with staging_folder(path) as folder:
        yield folder
        move_folder(folder, path)


@contextlib.contextmanager
def staging_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """An empty hidden folder beside ``path``, removed at the end with what is still in it; those of processes
    that were killed go first.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    folder = _unfinished(path)
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY) if _is_local(path) else None
    try:
        if handle is not None:
            _lock(handle)
        yield folder
    finally:
        if folder.exists():
            folder.rmtree()
        if handle is not None:
            os.close(handle)


def move_folder(folder: epath.Path, path: epath.Path) -> None:
    """Moves a complete folder to its place, unless another process has been faster."""
    _sync(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(path)
    except OSError:
        if not path.exists():
            raise


def remove_unfinished(path: epath.PathLike) -> None:
    """Removes what killed processes have left of the file or folder at ``path``. What a living process
    writes is locked and stays; on an object store, where there are no locks, everything stays.
    """
    path = epath.Path(path)
    if not _is_local(path) or not path.parent.is_dir():
        return
    left = re.compile(rf"\.{re.escape(path.name)}-[0-9a-f]{{32}}")
    for part in list(path.parent.iterdir()):
        if left.fullmatch(part.name) and _is_abandoned(part):
            if part.is_dir():
                part.rmtree()
            else:
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def held(folder: epath.PathLike) -> Iterator[None]:
    """A folder for this process alone, made if it is not there and removed again if nothing came into it.

    The operating system's lock ends with its holder, however that ends. On an object store and on a file
    system without locks nothing is held: there, it is for the user to see that one process writes.

    Raises:
        UserError: another process has it; the line names that and its host.
    """
    folder = epath.Path(folder)
    if not _is_local(folder):
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _take(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): give a folder that can"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(folder / LOCK)
        os.close(handle)
        for path in made:
            with contextlib.suppress(OSError):  # something is in it, as it should
                os.rmdir(path)


def _take(folder: epath.Path) -> int:
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 400).decode(errors="replace") or "another process"
            os.close(handle)
            raise UserError(
                f"{folder} is in use by {holder}: wait for it or stop it, or give another folder"
            ) from error
        except OSError:  # there are no locks here
            return handle
        # Who held it may have removed it between our two calls; then ours is no file of the folder.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)
    os.truncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return handle


def is_file(path: epath.PathLike) -> bool:
    """Whether there is a file with contents to read: no folder, and no pipe (to which `epath.Path.is_file`
    says yes), which would be waited for without end.
    """
    return os.path.isfile(path) if _is_local(epath.Path(path)) else epath.Path(path).is_file()


def reason(error: Exception) -> str:
    """Why a file could not be reached, in a few words."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]


_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""What reads the paths of each object store; other addresses are read by nothing here."""


def unreachable(path: epath.PathLike) -> str:
    """Why no file of that name can be reached, "" where one may be: nothing is opened."""
    name = os.fspath(path)
    scheme, slashes, _ = name.partition("://")
    if "\0" in name:
        return "it holds a NUL character: leave it out"
    if not slashes or "/" in scheme:
        return ""
    if scheme not in _PACKAGES:
        return f"no files of {scheme}:// are read: give a path, or one of {', '.join(_PACKAGES)}://"
    package = _PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        return f"paths of {scheme}:// are read by a package that is not here: pip install {package}"
    return ""


def writable_folder(path: epath.PathLike, where: str) -> epath.Path:
    """A folder that results can be written to: one that is there, or can be made. Nothing is made.

    Args:
        where: how the user named it, for the error.

    Raises:
        UserError: it is a file, stands below one, cannot be reached, or may not be written to.
    """
    if said := unreachable(path):
        raise UserError(f"{where}: {said}")
    try:
        folder = epath.Path(path)
        found = folder if _is_local(folder) else None
        if found is None:
            folder.exists()
            return folder
        # A link into the void, or in a circle, is there though it leads nowhere.
        while not os.path.lexists(found) and found != found.parent:
            found = found.parent
        os.stat(found)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where} cannot be written to: {reason(error)}") from error
    if not os.path.isdir(found):
        raise UserError(f"{where}: {found} is a file and no folder: choose another")
    if not os.access(found, os.W_OK | os.X_OK):
        raise UserError(f"{where} cannot be written to: no permission to write to {found}")
    _check_names(folder, where)
    return folder


def writable_file(path: epath.PathLike, where: str) -> epath.Path:
    """A file that can be written; errors as for `writable_folder`."""
    if said := unreachable(path):
        raise UserError(f"{where}: {said}")
    made = epath.Path(path)
    if _is_local(made) and os.path.isdir(made):
        raise UserError(f"{where} is a folder: give a file")
    _check_names(made, where)
    return writable_folder(made.parent, where) / made.name


def _check_names(path: epath.Path, where: str) -> None:
    """Refuses names and paths of more bytes than file systems have, with room for `_unfinished`'s and for
    what is written below.
    """
    if len(os.fsencode(os.path.abspath(path))) > 4096 - 512:
        raise UserError(f"{where} cannot be written to: the path is too long")
    if any(len(os.fsencode(part)) > 255 - 34 for part in path.parts):
        raise UserError(f"{where} cannot be written to: a name in it is too long")


def _unfinished(path: epath.Path) -> epath.Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


def _is_local(path: epath.Path) -> bool:
    return "://" not in str(path)


def _lock(handle: int) -> None:
    # A file system without locks has none to take either: what is left there stays.
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def _is_abandoned(part: epath.Path) -> bool:
    # One that was made this moment may not be locked yet.
    if time.time() - part.stat().mtime < 1:
        return False
    try:
        handle = os.open(part, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _sync(folder: epath.Path) -> None:
    """Asks a local disk to keep the files below a folder."""
    if not _is_local(folder):
        return
    for root, _, names in os.walk(folder):
        for name in names:
            handle = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
