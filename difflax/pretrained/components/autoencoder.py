"""Autoencoders in diffusers' layout, in and out: a folder with ``config.json`` and weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from etils import epath

from difflax.core.types import Params, UserError
from difflax.models.autoencoder_kl import AutoencoderKLConfig, KLAutoencoder
from difflax.pretrained.format.safetensors import open_weights, read_json, write_file, write_json
from difflax.pretrained.format.torch_names import check_names, from_torch, to_torch

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model"

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in the autoencoders of the first checkpoints."""


def read_autoencoder(folder: epath.PathLike, *, dtype: Any = jnp.float32) -> KLAutoencoder:
    """The autoencoder that a folder's ``config.json`` describes; no weights are read.

    Raises:
        UserError: there is no such file, or it describes no ``AutoencoderKL``.
    """
    path = epath.Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"no {CONFIG} in {folder}: give the folder of an autoencoder in diffusers' layout")
    config = read_json(path)
    name = config.get("_class_name", "AutoencoderKL")
    if name != "AutoencoderKL":
        raise UserError(f"{path}: _class_name = {name!r} is not supported, only 'AutoencoderKL'")
    return KLAutoencoder(config=AutoencoderKLConfig.from_config(config), dtype=dtype)


def load_autoencoder(folder: epath.PathLike, *, dtype: Any = jnp.float32) -> tuple[KLAutoencoder, Params]:
    """The autoencoder of a folder with its weights.

    Raises:
        UserError: a file that is missing, damaged or not supported, or weights that do not fit.
    """
    folder = epath.Path(folder)
    autoencoder = read_autoencoder(folder, dtype=dtype)
    tensors, what = newer_names(open_weights(folder, WEIGHTS)), f"the autoencoder in {folder}"
    abstract = autoencoder.network.abstract()
    check_names(tensors, abstract, what)
    return autoencoder, from_torch(tensors, abstract, what, dtype=dtype)


def save_autoencoder(autoencoder: KLAutoencoder, params: Params, folder: epath.PathLike) -> None:
    """Writes what `load_autoencoder` and diffusers' ``AutoencoderKL.from_pretrained`` read."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"{WEIGHTS}.safetensors", to_torch(params))
    # Last, so that a folder with a config is whole.
    write_json(folder / CONFIG, {"_class_name": "AutoencoderKL", **dataclasses.asdict(autoencoder.config)})


def newer_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """An autoencoder's tensors, the attention's by their newer names."""
    renamed = {}
    for name, tensor in tensors.items():
        *parents, layer, last = name.split(".")
        if layer in _OLD_ATTENTION and "attentions" in parents:
            name = ".".join([*parents, _OLD_ATTENTION[layer], last])
        renamed[name] = tensor
    return renamed
