"""Config files: found, overridden, turned into objects, compared; errors are one line.

A config file is Python: ``get_config(arg: str = "") -> ml_collections.ConfigDict``; ``--config=file.py:arg``
passes an argument. A section that picks an implementation has its ``name`` and the fields of that dataclass.
"""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from difflax.core.types import UserError

OPERATIONAL = (
    "mesh",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.keep_every",
    "training.keep_best",
    "training.best_metric",
    "training.best_is",
    "training.max_failed_saves",
    "training.max_roll_backs",
    "training.max_bad_examples",
    "training.profile_steps",
    "training.record_order",
    "training.sample_every",
    "training.sample_prompts",
    "evaluation",
    "sampler",
    "guidance",
    "data.data_dir",
)
"""What may differ when a run is taken up again: it changes nothing that is trained."""


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The resolved config as JSON values."""
    return json.loads(json.dumps(config.to_dict(), default=list))


def from_json(values: Mapping[str, Any]) -> ConfigDict:
    """The inverse of `to_json`, locked; lists become tuples."""
    return ConfigDict(_tuples(values)).lock()


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], path: str = "") -> list[str]:
    """Where two resolved configs differ in what matters to training: ``path: stored there, given here``."""
    found = []
    for key in sorted(set(stored) | set(given)):
        where = f"{path}{key}"
        if where in OPERATIONAL:
            continue
        old, new = stored.get(key), given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{where}.")
        elif old != new:
            found.append(f"{where}: {old!r} there, {new!r} here")
    return found


def read_workdir_config(workdir: epath.PathLike) -> ConfigDict:
    """The resolved config of a run.

    Raises:
        UserError: if ``workdir`` is not a workdir.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir}: no config.json there, so it is no workdir; train one with difflax train")
    try:
        return from_json(json.loads(path.read_text()))
    except ValueError as error:
        raise UserError(
            f"{path}: not readable as JSON ({error}); restore it from a checkpoint's config"
        ) from error


def claim_workdir(workdir: epath.PathLike, config: ConfigDict) -> None:
    """Stores the config in a new workdir, or refuses a workdir that holds a run with another one."""
    workdir = epath.Path(workdir)
    path = workdir / "config.json"
    given = to_json(config)
    if path.exists():
        other = differences(to_json(read_workdir_config(workdir)), given)
        if other:
            more = f" and {len(other) - 3} more" if len(other) > 3 else ""
            raise UserError(
                f"{workdir} holds a run with another config ({'; '.join(other[:3])}{more}):"
                " choose another --workdir, or the config it was started with"
            )
    elif workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"{workdir} is not empty and no workdir of difflax: choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(given, indent=2) + "\n")
