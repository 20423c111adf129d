"""A checkpoint of any family, from wherever it lies: a folder, the Hub, a file in the original layout."""

import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from etils import epath

from difflax.core.files import is_file, unreachable
from difflax.core.spelling import shown
from difflax.core.types import Params, UserError
from difflax.pretrained.components.text_encoders import EncoderOptions, load_text_encoders
from difflax.pretrained.families import check_options, read_configs
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.format.hub import download
from difflax.pretrained.format.layout import AUTOENCODER, DIFFUSERS
from difflax.pretrained.format.safetensors import open_weights
from difflax.pretrained.open_file import FileOptions, load_file


def open_checkpoint(
    source: epath.PathLike,
    *,
    dtype: Any = jnp.float32,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    single: FileOptions = FileOptions(),
    t5: bool | None = None,
    t5_length: int | None = None,
    place: Callable[[Params], Params] | None = None,
) -> Checkpoint:
    """The checkpoint in a folder, on the Hub or in a file; arguments as for `difflax.from_pretrained`.

    Args:
        dtype: of the computation and of the parameters.
        single: what is said of a single file.
        place: shapes of the denoising network's parameters to their shardings, which they are read
            straight to.

    Raises:
        UserError: a checkpoint that cannot be had, is damaged or is not supported, or an argument that is
            another kind's.
    """
    options = EncoderOptions(dtype=dtype, variant=variant, t5=t5, t5_length=t5_length)
    if said := unreachable(source):
        raise UserError(f"{shown(os.fspath(source))}: {said}")
    if is_file(source):
        return load_file(epath.Path(source), options, single, place)
    single.check_unused(source)
    folder = download(
        source,
        revision=revision,
        variant=variant,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    return load_folder(folder, options, place)


def load_folder(
    folder: epath.Path, options: EncoderOptions, place: Callable[[Params], Params] | None = None
) -> Checkpoint:
    """The checkpoint in a pipeline folder; all configs, names and shapes are checked before a tensor is read.

    Raises:
        UserError: a file that is missing, damaged or not supported, or weights that do not fit.
    """
    configs, where = read_configs(folder), f"in {folder}"
    family = configs.family
    check_options(family, options, folder)
    denoiser = open_weights(folder / configs.denoiser, DIFFUSERS, variant=options.variant)
    autoencoder = open_weights(folder / AUTOENCODER, DIFFUSERS, variant=options.variant)
    autoencoder = family.autoencoder.names(autoencoder)
    configs.check_weights(denoiser, autoencoder, where, options.dtype)
    loaded = load_text_encoders(folder, family.text, configs.index, family.title, options)
    encoder = configs.join(loaded, options, where)
    return Checkpoint.read(configs, denoiser, autoencoder, encoder, where, dtype=options.dtype, place=place)
