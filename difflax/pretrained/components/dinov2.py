"""DINOv2 from its folder in the Hub's layout."""

import functools

from etils import epath

from difflax.core.documents import read_json
from difflax.core.types import Params, UserError
from difflax.models.dinov2 import DINOv2Config, DINOv2Model
from difflax.models.functional import Functional, functional
from difflax.pretrained.format.layout import CONFIG, TRANSFORMERS, check_model
from difflax.pretrained.format.safetensors import open_weights
from difflax.pretrained.format.torch_names import from_torch

MASK_TOKEN = "embeddings.mask_token"
"""Of training alone."""


@functools.cache
def dinov2_network(config: DINOv2Config) -> Functional:
    """The network as pure functions, the same object for the same config."""
    return functional(lambda rngs: DINOv2Model(config, rngs=rngs))


def load_dinov2(directory: epath.PathLike) -> tuple[DINOv2Config, Params]:
    """Sizes and weights of a folder such as that of ``facebook/dinov2-large``.

    Raises:
        UserError: the folder is no DINOv2's, or its weights do not fit its config.
    """
    path = epath.Path(directory)
    if not (path / CONFIG).is_file():
        raise UserError(f"no {CONFIG} in {path}: give a DINOv2's folder in the Hub's layout")
    fields = read_json(path / CONFIG)
    check_model(fields, "dinov2", f"in {path}", "give the folder of a DINOv2 without registers")
    config = DINOv2Config.from_config(fields)
    tensors = {n: t for n, t in open_weights(path, TRANSFORMERS).items() if n != MASK_TOKEN}
    return config, from_torch(tensors, dinov2_network(config).abstract(), f"the DINOv2 in {path}")
