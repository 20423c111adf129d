"""The Inception network of FID from the files that people publish it in."""

import functools

from etils import epath

from difflax.core.types import Params, UserError
from difflax.models.functional import Functional, functional
from difflax.models.inception import FIDInceptionV3
from difflax.pretrained.format.pytorch import open_tensors
from difflax.pretrained.format.torch_names import from_torch

NOT_READ = ("fc.", "AuxLogits.")
"""Heads that are no part of the features."""

FILES = "weights-inception-2015-12-05-6726825d.pth of torch-fidelity, or pt_inception-2015-12-05-6726825d.pth"


@functools.cache
def inception_network() -> Functional:
    """The network as pure functions, the same object each time."""
    return functional(lambda rngs: FIDInceptionV3(rngs=rngs))


def load_inception(path: epath.PathLike) -> Params:
    """The weights of a file with torchvision's names: ``.safetensors``, or the ``.pth`` of torch-fidelity or
    pytorch-fid.

    Raises:
        UserError: no such file, or one with other weights.
    """
    path = epath.Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file with Inception's weights ({FILES})")
    tensors = {
        name: tensor
        for name, tensor in open_tensors(path).items()
        if not name.startswith(NOT_READ) and not name.endswith(".num_batches_tracked")
    }
    return from_torch(tensors, inception_network().abstract(), f"the Inception of FID in {path}")
