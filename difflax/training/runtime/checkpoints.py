"""Checkpoints: state, position in the data and config, written in the background and checked before use.

Orbax writes the arrays; this file decides what counts. A checkpoint counts once its manifest
(`difflax.training.runtime.manifest`) is written, which is the last thing before its folder gets its name. A
newest one that is damaged is reported and the one before it is used.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from difflax.core.events import announce
from difflax.core.types import UserError
from difflax.training.runtime import manifest
from difflax.training.runtime.retention import Retention
from difflax.training.state import TrainState

_UNFINISHED = ".orbax-checkpoint-tmp"

ITEMS = ("state", "data", "config")
"""What every checkpoint holds, a folder each."""


class Checkpoints:
    """The checkpoints of a workdir, one folder a step.

    Args:
        directory: where they lie; made when the first one is saved.
        retention: which of them stay.
        max_failed_saves: so many saves in a row may fail; each is reported, one more is an error.
        report: takes a line about a damaged checkpoint or a failed save.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        retention: Retention | None = None,
        max_failed_saves: int = 3,
        report: Callable[[str], None] = announce,
    ):
        path = epath.Path(directory)
        # Orbax writes only below absolute paths; a bucket's are so.
        self._directory = path if "://" in str(path) else path.resolve()
        self._retention = retention or Retention()
        self._max_failed_saves = max_failed_saves
        self._report = report
        self._failed_saves = 0
        self._saving: tuple[int, dict[str, Any]] | None = None
        self._checked: dict[int, str | None] = {}
        self._writer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )

    @property
    def latest(self) -> int | None:
        """The newest step whose checkpoint is undamaged; ``None`` if none was ever finished.

        Raises:
            UserError: there are checkpoints, and all of them are damaged.
        """
        return self.newest()

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, damaged or not, in order."""
        if not self._directory.exists():
            return []
        folders = list(self._directory.glob("step_*"))
        if "://" in str(self._directory):  # where no folder can be renamed, it has its name from the start
            folders = [folder for folder in folders if (folder / "commit_success.txt").exists()]
        names = [folder.name.removeprefix("step_") for folder in folders]
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self, *, good: bool = False) -> int | None:
        """As ``latest``; with ``good`` of those that a roll-back may end at. Every process must ask, and all
        get the first one's answer.
        """
        found: int | None = None
        damage: UserError | None = None
        if jax.process_index() == 0:
            try:
                found = self._newest_here(good)
            except UserError as error:
                damage = error
        if jax.process_count() > 1:
            code = -2 if damage else -1 if found is None else found
            told = int(multihost_utils.broadcast_one_to_all(np.int32(code)))
            if told == -2:
                every = f"every checkpoint in {self._directory} is damaged, as process 0 reports"
                damage = damage or UserError(every)
            found = None if told < 0 else told
        if damage is not None:
            raise damage
        return found

    def save(
        self,
        step: int,
        state: TrainState,
        data: Any,
        config: dict[str, Any],
        constants: dict[str, Any],
        *,
        metrics: dict[str, float | None] | None = None,
        good: bool = True,
    ) -> None:
        """Starts writing; returns when the arrays are copied, so that the state may be donated.

        Args:
            data: the position in the data, JSON values.
            constants: arrays that sampling needs beside the parameters, such as the null condition.
            metrics: the numbers of the last log line, for `Retention.best`.
            good: whether a roll-back may end here.

        Raises:
            UserError: too many saves in a row have failed.
        """
        self.wait()
        if step in self.steps:
            return
        items = {
            "state": ocp.args.StandardSave(_stored(state)),
            "data": ocp.args.JsonSave(data),
            "config": ocp.args.JsonSave(config),
        }
        if constants:
            items["constants"] = ocp.args.StandardSave(constants)
        metric = (metrics or {}).get(self._retention.metric)
        self._saving = (step, {"step": step, "good": good, "metric": metric})
        with self._failures_counted():
            # A folder that cannot be made is found here: Orbax's threads would wait five minutes for it.
            self._directory.mkdir(parents=True, exist_ok=True)
            self._clear_unfinished(step)
            self._writer.save(self._folder(step), args=ocp.args.Composite(**items))

    def poll(self) -> None:
        """Reports a save that failed in the background since the last call."""
        with self._failures_counted():
            self._writer.check_for_errors()

    def wait(self) -> None:
        """Waits for what is being written, and deletes what need not stay."""
        with self._failures_counted():
            self._writer.wait_until_finished()
            if self._saving is None:
                return
            self._failed_saves, self._saving = 0, None
        try:
            self._prune()
        except OSError as error:
            self._report(f"old checkpoints in {self._directory} could not be deleted: {_line(error)}")

    def finish(self) -> None:
        """The end of a run: waits for the last save.

        Raises:
            UserError: it failed.
        """
        self.wait()
        self._writer.close()
        if self._failed_saves:
            raise UserError(
                f"the last save in {self._directory} failed: make room or the folder writable, and start the"
                " same command again, which goes on from the checkpoint before"
            )

    def close(self) -> None:
        """Waits for what is being written, whatever becomes of it."""
        self._max_failed_saves = sys.maxsize
        self.wait()
        self._writer.close()

    def restore(self, abstract: TrainState, *, good: bool = False) -> tuple[TrainState, Any]:
        """The newest state, each array placed where ``abstract`` says, and the position in the data.

        Folders of unfinished saves are deleted and those of damaged newer checkpoints set aside, as training
        is to write these steps again.

        Args:
            good: pass over the checkpoints in the middle of skipped steps.

        Raises:
            UserError: there is none.
        """
        self.wait()
        step = self._require(self.newest(good=good))
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_stored(abstract)), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._writer.restore(self._folder(step), args=args)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{self._folder(step)} is whole but does not fit this run ({_line(error)}): it was written by"
                " another version or config; train in a new workdir"
            ) from error
        self._set_aside(step)
        return TrainState(**restored.state), restored.data

    def restore_params(self, abstract: PyTree, step: int | None = None) -> PyTree:
        """The averaged parameters of ``step`` (the newest by default), in the shapes of ``abstract``, where
        those say, or on this process's first device.

        Raises:
            UserError: there is no such checkpoint, or it is damaged.
        """
        return self.restore_part("ema_params", abstract, step)

    def restore_part(self, name: str, abstract: PyTree, step: int | None = None) -> PyTree:
        """As `restore_params`, of another field of the state; what ``abstract`` leaves out is not read."""
        if step is None:
            step = self._require(self.latest)
        elif step not in self.steps:
            raise UserError(f"no checkpoint of step {step} in {self._directory}; kept are {self.steps}")
        elif self._damage(step):
            raise UserError(f"{self._folder(step)} is damaged: {self._damage(step)}; kept are {self.steps}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        item = {name: jax.tree.map(lambda s: _placed(s, s.sharding or here), abstract)}
        restored = self._writer.restore(
            self._folder(step),
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
                )
            ),
        )
        return restored.state[name]

    def rewind(self, step: int) -> None:
        """Deletes what was saved after ``step``: it is done again."""
        self.wait()
        if jax.process_index() == 0:
            self._clear_unfinished("*")
            for later in [s for s in self.steps if s > step]:
                self._delete(later)

    def restore_constants(self) -> dict[str, Any]:
        """The constants that were saved with the newest state, on the device that they were saved from, or on
        this process's first one where there is no such device here.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        args = ocp.args.Composite(constants=ocp.args.StandardRestore(fallback_sharding=here))
        return self._writer.restore(self._folder(self._require(self.latest)), args=args).constants

    def _folder(self, step: int) -> epath.Path:
        return self._directory / f"step_{step}"

    def _seal(self) -> None:
        """Writes the manifest of the save at hand, after its files and before its folder gets its name."""
        step, facts = self._saving
        for folder in self._unfinished(step) or [self._folder(step)]:
            manifest.write_manifest(folder, facts)

    def _unfinished(self, step: int | str) -> list[epath.Path]:
        if not self._directory.exists():
            return []
        return list(self._directory.glob(f"step_{step}{_UNFINISHED}*"))

    def _clear_unfinished(self, step: int | str) -> None:
        if jax.process_index() == 0:
            for folder in self._unfinished(step):
                folder.rmtree(missing_ok=True)

    @contextlib.contextmanager
    def _failures_counted(self) -> Iterator[None]:
        """Counts and reports whatever goes wrong with a save inside; only too many are an error."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a disk fails in many ways, and Orbax raises its own on top
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        step, self._saving = self._saving[0] if self._saving else None, None
        self._failed_saves += 1
        text = f"the checkpoint of step {step} could not be saved in {self._directory}: {_line(error)}"
        if self._failed_saves > self._max_failed_saves:
            raise UserError(
                f"{text}. {self._failed_saves} saves in a row have failed, more than"
                f" config.training.max_failed_saves = {self._max_failed_saves}: make room or the folder"
                " writable, and start the same command again"
            ) from error
        self._report(f"{text}; training goes on")

    def _newest_here(self, good: bool) -> int | None:
        steps = self.steps
        for step in reversed(steps):
            if self._damage(step) is None and (not good or manifest.read_facts(self._folder(step))["good"]):
                return step
        if steps and all(self._damage(step) for step in steps):
            raise UserError(
                f"every checkpoint in {self._directory} is damaged (step_{steps[-1]}: "
                f"{self._damage(steps[-1])}): put back a copy, or train in a new workdir"
            )
        return None

    def _damage(self, step: int) -> str | None:
        if step not in self._checked:
            found = manifest.damage(self._folder(step), ITEMS)
            facts = manifest.read_facts(self._folder(step))
            if found is None and facts.get("step") != step:
                found = f"it is that of step {facts.get('step')}"
            if found is not None:
                self._report(f"the checkpoint {self._folder(step)} is damaged ({found}) and is not used")
            self._checked[step] = found
        return self._checked[step]

    def _require(self, step: int | None) -> int:
        if step is None:
            raise UserError(f"no checkpoint in {self._directory}: train first (difflax train)")
        return step

    def _set_aside(self, step: int) -> None:
        """Makes room for the steps after ``step``."""
        if jax.process_index() == 0:
            self._clear_unfinished("*")
            for later in [s for s in self.steps if s > step]:
                aside = self._directory / f"damaged_step_{later}"
                if aside.exists():
                    aside.rmtree()
                self._folder(later).rename(aside)
                self._checked.pop(later, None)

    def _prune(self) -> None:
        if jax.process_index() != 0:
            return
        facts = {step: manifest.read_facts(self._folder(step)) for step in self.steps}
        whole = {step: found["metric"] for step, found in facts.items() if found is not None}
        kept = self._retention.kept(whole) | {max((s for s in whole if facts[s]["good"]), default=0)}
        for step in set(facts) - kept:
            self._delete(step)

    def _delete(self, step: int) -> None:
        # What a kill leaves of a deletion does not count as a checkpoint, and goes with the next.
        (self._folder(step) / manifest.NAME).unlink(missing_ok=True)
        self._folder(step).rmtree()
        self._checked.pop(step, None)


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")


def stored_config(directory: epath.PathLike) -> tuple[int, dict[str, Any]] | None:
    """Step and config of the newest checkpoint whose config can be read, ``None`` where there is none. Of its
    other files nothing is looked at.
    """
    directory = epath.Path(directory)
    for step in reversed(Checkpoints(directory).steps):
        folder = directory / f"step_{step}" / "config"
        try:
            with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
                found = reader.restore(folder if "://" in str(folder) else folder.resolve())
        except (OSError, ValueError, KeyError):
            continue  # a damaged one, which the run reports
        if isinstance(found, dict):
            return step, found
    return None


def has_checkpoint(directory: epath.PathLike) -> bool:
    """Whether a run has saved something there."""
    if not epath.Path(directory).exists():
        return False
    checkpoints = Checkpoints(directory)
    found = checkpoints.latest is not None
    checkpoints.close()
    return found


def _stored(state: TrainState) -> dict[str, Any]:
    """The fields of a state as a checkpoint has them, or is read into: without profiles, that of a version
    which knew none.
    """
    return {name: value for name, value in vars(state).items() if name != "profiles" or value}


def _placed(shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
