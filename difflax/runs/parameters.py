"""Which parameters of a run make images: its own average, or one that is rebuilt from snapshots."""

from etils import epath
from jaxtyping import PyTree

from difflax.config.experiments import Experiment
from difflax.training.runtime.averages import trained_weights
from difflax.training.runtime.snapshots import Snapshots


def averaged_params(
    experiment: Experiment,
    workdir: epath.Path,
    abstract: PyTree,
    *,
    step: int | None = None,
    ema_length: float | None = None,
) -> tuple[PyTree, int]:
    """Averaged parameters of a workdir and the step that they are of, in the shapes of ``abstract``, where
    those say, or on this process's first device.

    Args:
        experiment: that of the workdir.
        step: of a checkpoint, or of a snapshot with ``ema_length``; ``None``: the newest.
        ema_length: the length (sigma_rel) of a power-function average that is rebuilt, see `Snapshots`;
            ``None``: the average that the checkpoint has.

    Raises:
        UserError: there are no such parameters.
    """
    if ema_length is not None:
        snapshots = Snapshots(workdir, experiment.ema)
        found = snapshots.rebuild(abstract, ema_length, step)
        snapshots.close()
        return found
    weights = trained_weights(workdir)
    params, step = weights.restore_params(abstract, step), weights.latest if step is None else step
    weights.close()
    return params, step
