"""Averaged parameters alone: of a run's checkpoints, what makes images, in few bytes and for reading only.

A workdir that is handed on has in place of ``checkpoints/`` a folder ``averages/`` with a folder a step:
``parameters.safetensors``, which may be in a narrower type than they were trained in, and
``constants.safetensors``, exactly as they were saved.
"""

from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree

from difflax.core.types import UserError
from difflax.pretrained.format.safetensors import open_file, write_file
from difflax.pretrained.format.torch_names import from_torch, to_torch
from difflax.training.runtime.checkpoints import Checkpoints

FOLDER = "averages"
PARAMETERS, CONSTANTS = "parameters.safetensors", "constants.safetensors"


class Averages:
    """The averaged parameters of one or more steps, read as `Checkpoints` reads them.

    Args:
        directory: where they lie, one folder a step.
    """

    def __init__(self, directory: epath.PathLike):
        self._directory = epath.Path(directory)

    @property
    def steps(self) -> list[int]:
        """The steps that are there, in order."""
        names = [folder.name.removeprefix("step_") for folder in self._directory.glob("step_*")]
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def latest(self) -> int:
        """The newest step.

        Raises:
            UserError: there is none.
        """
        if not self.steps:
            raise UserError(f"no parameters in {self._directory}: the folder is incomplete")
        return self.steps[-1]

    def restore_params(self, abstract: PyTree, step: int | None = None) -> PyTree:
        """The averaged parameters of ``step`` (the newest by default), in the shapes and types of
        ``abstract``, where those say, or on this process's first device.

        Raises:
            UserError: there is no such step, or its file is damaged or does not fit.
        """
        step = self.latest if step is None else step
        if step not in self.steps:
            raise UserError(f"no parameters of step {step} in {self._directory}; kept are {self.steps}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda shape: shape.sharding or here, abstract)
        path = self._folder(step) / PARAMETERS
        return from_torch(open_file(path), abstract, f"the network of {path.parent}", shardings=places)

    def restore_constants(self) -> dict[str, Any]:
        """The constants that were saved with the newest step."""
        stored = open_file(self._folder(self.latest) / CONSTANTS)
        return {name: jax.numpy.asarray(np.asarray(tensor)) for name, tensor in stored.items()}

    def close(self) -> None:
        """Nothing is left open."""

    def _folder(self, step: int) -> epath.Path:
        return self._directory / f"step_{step}"


def write_averages(
    workdir: epath.Path, step: int, params: PyTree, constants: dict[str, Any], dtype: Any
) -> None:
    """Writes parameters, rounded to ``dtype``, and constants, as they are, into ``workdir``.

    Raises:
        ValueError: two parameters would have the same name.
    """
    named = to_torch(jax.tree.map(lambda leaf: leaf.astype(dtype), params))
    if len(named) != len(jax.tree.leaves(params)):
        raise ValueError("two parameters of the network have the same name in PyTorch")
    folder = workdir / FOLDER / f"step_{step}"
    folder.mkdir(parents=True)
    write_file(folder / PARAMETERS, named)
    write_file(folder / CONSTANTS, {name: np.asarray(value) for name, value in constants.items()})


def trained_weights(workdir: epath.Path) -> Checkpoints | Averages:
    """What holds the averaged parameters of a workdir: its checkpoints, or `Averages` of them.

    Raises:
        UserError: there are neither.
    """
    if (workdir / FOLDER).is_dir():
        return Averages(workdir / FOLDER)
    if not (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} has no checkpoint yet: train it first (difflax train)")
    return Checkpoints(workdir / "checkpoints")
