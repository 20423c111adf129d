"""Checkpoints of Orbax: state, position in the data and config, written in the background."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from difflax.training.state import TrainState
from difflax.types import UserError


class Checkpoints:
    """The checkpoints of a workdir, one folder a step.

    Args:
        directory: where they lie; made when the first one is saved.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, step_prefix="step", create=True)
        path = epath.Path(directory)
        # Orbax writes only below absolute paths; a bucket's are so.
        path = path if "://" in str(path) else path.resolve()
        self._manager = ocp.CheckpointManager(path, options=options)

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        data: Any,
        config: dict[str, Any],
        constants: dict[str, Any],
    ) -> None:
        """Starts writing; returns when the arrays are copied, so that the state may be donated.

        Args:
            data: the position in the data, JSON values.
            constants: arrays that sampling needs beside the parameters, such as the null condition.
        """
        if step == self.latest:
            return
        items = {
            "state": ocp.args.StandardSave(state),
            "data": ocp.args.JsonSave(data),
            "config": ocp.args.JsonSave(config),
        }
        if constants:
            items["constants"] = ocp.args.StandardSave(constants)
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, abstract: TrainState) -> tuple[TrainState, Any]:
        """The newest state, each array placed where ``abstract`` says, and the position in the data."""
        restored = self._manager.restore(
            self._require_latest(),
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
        )
        return restored.state, restored.data

    def restore_params(self, abstract: PyTree, step: int | None = None) -> PyTree:
        """The averaged parameters of ``step`` (the newest by default), in the shapes of ``abstract``, on this
        process's first device.

        Raises:
            UserError: there is no such checkpoint.
        """
        kept = self._manager.all_steps()
        if step is not None and step not in kept:
            raise UserError(f"no checkpoint of step {step} in {self._manager.directory}; kept are {kept}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        item = {"ema_params": jax.tree.map(lambda s: _placed(s, here), abstract)}
        restored = self._manager.restore(
            self._require_latest() if step is None else step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
                )
            ),
        )
        return restored.state["ema_params"]

    def restore_constants(self) -> dict[str, Any]:
        """The constants that were saved with the newest state."""
        args = ocp.args.Composite(constants=ocp.args.StandardRestore())
        return self._manager.restore(self._require_latest(), args=args).constants

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _require_latest(self) -> int:
        if self.latest is None:
            raise UserError(f"no checkpoint in {self._manager.directory}: train first (difflax train)")
        return self.latest


def has_checkpoint(directory: epath.PathLike) -> bool:
    """Whether a run has saved something there."""
    if not epath.Path(directory).exists():
        return False
    checkpoints = Checkpoints(directory)
    found = checkpoints.latest is not None
    checkpoints.close()
    return found


def _placed(shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
