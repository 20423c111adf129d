"""Autoencoders in diffusers' layout, in and out: a folder with ``config.json`` and weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from etils import epath

from difflax.core.documents import read_json
from difflax.core.types import Params, UserError
from difflax.models.autoencoder_kl import AutoencoderKLConfig, KLAutoencoder
from difflax.pretrained.format.layout import CONFIG, DIFFUSERS, check_class, write_model
from difflax.pretrained.format.safetensors import Tensors, open_weights
from difflax.pretrained.format.torch_names import check_names, from_torch, to_torch

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in the autoencoders of the first checkpoints."""


def newer_names(tensors: Tensors) -> dict[str, Any]:
    """The tensors of an ``AutoencoderKL``, the attention's by their newer names."""
    renamed = {}
    for name, tensor in tensors.items():
        *parents, layer, last = name.split(".")
        if layer in _OLD_ATTENTION and "attentions" in parents:
            name = ".".join([*parents, _OLD_ATTENTION[layer], last])
        renamed[name] = tensor
    return renamed


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderKind:
    """A class of autoencoders of diffusers.

    Attributes:
        name: the class.
        from_config: the autoencoder of a ``vae/config.json`` that computes in a dtype, or in float32 where
            that would overflow.
        names: an older file's tensors by their newer names.
    """

    name: str
    from_config: Callable[[Mapping[str, Any], Any], Any]
    names: Callable[[Tensors], Tensors] = dict


KL = AutoencoderKind(name="AutoencoderKL", from_config=KLAutoencoder.from_config, names=newer_names)


def read_autoencoder(folder: epath.PathLike, *, dtype: Any = jnp.float32) -> KLAutoencoder:
    """The autoencoder that a folder's ``config.json`` describes; no weights are read.

    Raises:
        UserError: there is no such file, or it describes no ``AutoencoderKL``.
    """
    path = epath.Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"no {CONFIG} in {folder}: give the folder of an autoencoder in diffusers' layout")
    config = read_json(path)
    check_class(config, KL.name, path)
    return KLAutoencoder(config=AutoencoderKLConfig.from_config(config), dtype=dtype)


def load_autoencoder(folder: epath.PathLike, *, dtype: Any = jnp.float32) -> tuple[KLAutoencoder, Params]:
    """The autoencoder of a folder with its weights.

    Raises:
        UserError: a file that is missing, damaged or not supported, or weights that do not fit.
    """
    folder = epath.Path(folder)
    autoencoder = read_autoencoder(folder, dtype=dtype)
    tensors, what = KL.names(open_weights(folder, DIFFUSERS)), f"the autoencoder in {folder}"
    abstract = autoencoder.network.abstract()
    check_names(tensors, abstract, what)
    return autoencoder, from_torch(tensors, abstract, what, dtype=dtype)


def save_autoencoder(autoencoder: KLAutoencoder, params: Params, folder: epath.PathLike) -> None:
    """Writes what `load_autoencoder` and diffusers' ``AutoencoderKL.from_pretrained`` read."""
    config = {"_class_name": KL.name, **dataclasses.asdict(autoencoder.config)}
    write_model(folder, DIFFUSERS, config, to_torch(params))
