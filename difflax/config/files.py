"""Config files and the configs of workdirs: found, overridden, shown, compared; errors are one line.

A config file is Python: ``get_config(arg: str = "") -> ml_collections.ConfigDict``; ``--config=file.py:arg``
passes an argument. It may hold every field (`difflax.config.start.experiment` gives such a config) or some.

ml_collections could read overrides as well, but takes the type of a value from the one that the file has: it
cannot know that a ``None`` may be a number, nor the fields of an implementation that the same command line
chooses. The schema knows both, so `difflax.config.resolve` reads them.
"""

import json
import pathlib
import runpy
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from difflax.config.experiments import Experiment, parse, resolve
from difflax.config.resolve import Override
from difflax.config.values import to_json
from difflax.core.documents import read_json
from difflax.core.files import LOCK, atomic_write, reason, remove_unfinished, unreachable, writable_folder
from difflax.core.spelling import shown
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
    "training.evaluate_every",
    "training.evaluate_prompts",
    "evaluation",
    "validation",
    "sampler",
    "guidance",
    "data.data_dir",
)
"""What may differ when a run is taken up again: it changes nothing that is trained."""


CHANGEABLE = (
    "training.steps",
    "optimizer.learning_rate",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.final_fraction",
)
"""What may differ as well when the user says so: how long a run goes on, and at which learning rates."""


def read_config_file(name: str, overrides: Sequence[Override] = ()) -> ConfigDict:
    """The resolved config of ``file.py`` or ``file.py:argument``, locked.

    Args:
        overrides: keys of the command line with their texts, see `difflax.config.resolve.override`.

    Raises:
        UserError: there is no such file, it fails, or a name, field or value in it or in the overrides is
            wrong.
    """
    path, _, argument = name.partition(":")
    if not pathlib.Path(path).is_file():
        raise UserError(f"--config={name}: there is no file {path}")
    try:
        get_config = runpy.run_path(path).get("get_config")
        if get_config is None:
            raise UserError(f"{path} has no function get_config")
        config = get_config(argument) if argument else get_config()
        if not hasattr(config, "items"):
            raise UserError(f"get_config returns {shown(config)}: return an ml_collections.ConfigDict")
        values = dict(config.items())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's file does
        raise UserError(f"--config={name}{_line_of(error, path)}: {_said(error)}") from error
    try:
        return ConfigDict(resolve(values, list(overrides)), type_safe=False).lock()
    except (TypeError, ValueError, RecursionError) as error:  # of values that no config holds
        raise UserError(f"--config={name}: {_said(error)}") from error


def _line_of(error: BaseException, path: str) -> str:
    """Where in a config file an exception came from."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    found = getattr(error, "lineno", None) if getattr(error, "filename", None) == path else None
    line = found or (lines[-1] if lines else None)
    return "" if line is None else f", line {line}"


def _said(error: BaseException) -> str:
    """What an exception says: its type too, where that is no difflax's own."""
    try:
        text = " ".join(str(error).split()) or "no reason is given"
    except Exception:
        text = "its text cannot be made"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], path: str = "", *, apart: Sequence[str] = OPERATIONAL
) -> list[str]:
    """Where two resolved configs differ in what matters to training: ``path: stored there, given here``.

    Args:
        apart: the keys that do not matter.
    """
    found = []
    for key in sorted(set(stored) | set(given)):
        where = f"{path}{key}"
        if where in apart:
            continue
        old, new = stored.get(key), given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{where}.", apart=apart)
        elif old != new:
            found.append(f"{where}: {old!r} there, {new!r} here")
    return found


def read_workdir(workdir: epath.PathLike) -> Experiment:
    """The experiment of a run.

    Raises:
        UserError: if ``workdir`` is not a workdir.
    """
    return parse(stored_values(workdir), workdir)


def stored_values(workdir: epath.PathLike) -> dict[str, Any]:
    """The config of a run as it was written; an earlier version knew fewer fields, and see `_of_today`.

    Raises:
        UserError: if ``workdir`` is not a workdir.
    """
    if said := unreachable(workdir):
        raise UserError(f"{shown(str(workdir))}: {said}")
    path = epath.Path(workdir) / "config.json"
    try:
        found = path.exists()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{workdir} cannot be read: {reason(error)}") from error
    if not found:
        raise UserError(f"{workdir}: no config.json there, so it is no workdir; train one with difflax train")
    return _of_today(read_json(path, hint="restore it from a checkpoint's config"))


def _of_today(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an earlier version wrote, with the names of this one.

    The world of "shapes" is another one since its captions are long or short, and what captions are made of
    is said in one field.
    """
    data = stored.get("data")
    try:
        name = data["name"]
        if "caption_key" in data:
            return {**stored, "data": _with_caption(data)}
        if name != "shapes" or "long_captions" in data:
            return dict(stored)
    except (KeyError, TypeError, AttributeError):  # what it is instead, `resolve` says
        return dict(stored)
    # How it was measured may have had other fields.
    measured = {"evaluation": {"name": "shapes"}} if stored.get("evaluation") else {}
    return {**stored, "data": {"name": "first_shapes"}, **measured}


def _with_caption(data: Mapping[str, Any]) -> dict[str, Any]:
    """``config.data`` with ``caption`` in the place of ``caption_key`` and ``caption_template``."""
    fields = dict(data)
    key, template = fields.pop("caption_key"), fields.pop("caption_template", "{}")
    return {**fields, "caption": key if template == "{}" else template.replace("{}", f"{{{key}}}")}


def claim_workdir(workdir: epath.PathLike, experiment: Experiment) -> None:
    """Stores the config in a new workdir, or refuses a workdir that holds a run with another one."""
    workdir = writable_folder(workdir, f"--workdir={workdir}")
    path = workdir / "config.json"
    remove_unfinished(path)
    if path.exists():
        stored = resolved_values(workdir)
        other = differences(stored, experiment.resolved)
        if other:
            may = not other_config(stored, experiment.resolved)
            raise UserError(
                f"{workdir} holds a run with another config ({_first(other)}):"
                " choose another --workdir, or the config it was started with"
                + (", or go on with this one by --change" if may else "")
            )
    elif workdir.exists() and any(path.name != LOCK for path in workdir.iterdir()):
        raise UserError(f"{workdir} is not empty and no workdir of difflax: choose another --workdir")
    _store(path, experiment)


def _store(path: epath.Path, experiment: Experiment) -> None:
    """Writes the resolved config, unless it is there already."""
    text = json.dumps(experiment.resolved, indent=2) + "\n"
    if path.exists() and path.read_text() == text:
        return
    with atomic_write(path, "w") as file:
        file.write(text)


def resolved_values(workdir: epath.PathLike) -> dict[str, Any]:
    """The config of a run, with the defaults of fields that an earlier version knew not, as JSON has it."""
    return to_json(resolve(stored_values(workdir)))


def other_config(stored: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    """In what a run was another one than the ``resolved`` config's, which may go on longer and at another
    learning rate; empty if in nothing.
    """
    apart = (*OPERATIONAL, *CHANGEABLE)
    return _first(differences(to_json(resolve(_of_today(stored))), resolved, apart=apart))


def change_workdir(workdir: epath.PathLike, experiment: Experiment) -> str:
    """Stores the config of ``experiment`` in the workdir of a run that it goes on with; says what is new.

    Raises:
        UserError: there is no run, or more differs than `CHANGEABLE`.
    """
    workdir = epath.Path(workdir)
    stored = resolved_values(workdir)
    if other := other_config(stored, experiment.resolved):
        raise UserError(
            f"{workdir} holds a run with another config ({other}); --change is for {', '.join(CHANGEABLE)}"
        )
    _store(workdir / "config.json", experiment)
    return _first(differences(stored, experiment.resolved)) or "nothing: the config is the workdir's own"


def _first(differences: Sequence[str]) -> str:
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more
