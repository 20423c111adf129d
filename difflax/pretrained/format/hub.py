"""From a folder or a Hub id to a folder: only the files that are read are fetched, through huggingface_hub.

Its cache (``HF_HOME``), its token and its offline mode (``HF_HUB_OFFLINE=1``) apply.
"""

import os
import re
from collections.abc import Collection
from typing import Any

from etils import epath

from difflax.core.documents import read_json
from difflax.core.types import UserError
from difflax.pretrained.format.layout import DIFFUSERS, INDEX, TRANSFORMERS, components, has_component
from difflax.pretrained.format.safetensors import read_index, weight_file

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL = ["*.json", "*.txt", "*/*.json", "*/*.txt", "*/*.model"]


def download(
    source: epath.PathLike,
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    weights: Collection[str] | None = None,
) -> epath.Path:
    """The folder of ``source``: itself, or the copy of a Hub repository in the cache.

    Args:
        source: a folder, or a Hub id such as ``"owner/name"``.
        revision: branch, tag or commit on the Hub.
        variant: of the weights to fetch, ``"fp16"``; a component without one is fetched without.
        cache_dir: instead of huggingface_hub's.
        local_files_only: take what the cache has.
        weights: the components whose weights are fetched, ``("text_encoder",)``; ``None``: all.

    Raises:
        UserError: neither a folder nor a repository that can be had.
    """
    path = epath.Path(source)
    if path.is_dir():
        return path
    name = os.fspath(source)
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise UserError(f"{name}: no such folder, and no Hub id (owner/name)")
    # Imported late: it takes a while, and most commands do without.
    import huggingface_hub
    from huggingface_hub import constants

    offline = local_files_only or constants.HF_HUB_OFFLINE
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": offline}
    try:
        if offline:
            return epath.Path(huggingface_hub.snapshot_download(name, **options))
        folder = epath.Path(huggingface_hub.snapshot_download(name, allow_patterns=_SMALL, **options))
        files = set(huggingface_hub.HfApi().list_repo_files(name, revision=revision))
        wanted = _weights(folder, files, variant, weights)
        return epath.Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted + _SMALL, **options))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        kind = "is not in the cache" if offline else "cannot be fetched from the Hub"
        remedy = "fetch it once online" if offline else "check the id, the network and the token"
        raise UserError(f"{name} {kind} ({reason}): {remedy}, or give a folder") from error


def _weights(
    folder: epath.Path, files: set[str], variant: str | None, parts: Collection[str] | None
) -> list[str]:
    """Which weight files of a repository to fetch, shards included."""
    index = read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    places = [name for name in components(index) if has_component(index, name)] or [""]
    wanted = []
    for place in places if parts is None else [place for place in places if place in parts]:
        prefix = f"{place}/" if place else ""
        inside = {file.removeprefix(prefix) for file in files if file.startswith(prefix)}
        for stem in (DIFFUSERS, TRANSFORMERS):
            found = weight_file(inside, stem, variant)
            if found is None:
                continue
            if found.endswith(".json"):
                shards = read_index(folder / prefix / found)
                wanted += [prefix + shard for shard in sorted(set(shards.values()))]
            else:
                wanted.append(prefix + found)
    return wanted
