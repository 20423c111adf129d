"""A checkpoint of any family, from wherever it lies."""

import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from etils import epath

from difflax.core.types import Params, UserError
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.families.sd import load_stable_diffusion, read_configs
from difflax.pretrained.families.sd3 import (
    StableDiffusion3,
    is_stable_diffusion_3,
    load_stable_diffusion_3,
    read_configs_3,
)
from difflax.pretrained.format.hub import download
from difflax.pretrained.single_file.sd import load_single_file


def open_checkpoint(
    source: epath.PathLike,
    *,
    dtype: Any = jnp.float32,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    config: epath.PathLike | None = None,
    tokenizer: epath.PathLike | None = None,
    prediction_type: str | None = None,
    t5: bool | None = None,
    t5_length: int | None = None,
    place: Callable[[Params], Params] | None = None,
) -> Checkpoint:
    """The checkpoint in a folder, on the Hub or in a file; arguments as for `difflax.from_pretrained`.

    Args:
        dtype: of the computation and of the parameters.
        place: shapes of the denoising network's parameters to their shardings, which they are read
            straight to.

    Raises:
        UserError: a checkpoint that cannot be had, is damaged or is not supported, or an argument that is
            another kind's.
    """
    single = {"config": config, "tokenizer": tokenizer, "prediction_type": prediction_type}
    third = {name: v for name, v in (("t5", t5), ("t5_length", t5_length)) if v is not None}
    if epath.Path(source).is_file():
        checkpoint: Checkpoint = load_single_file(
            source, dtype=dtype, variant=variant, place=place, **single, **third
        )
    else:
        for name, value in single.items():
            if value is not None:
                raise UserError(f"{name}={os.fspath(value)!r} is for a single file, {source} is none")
        folder = download(
            source,
            revision=revision,
            variant=variant,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        newer = is_stable_diffusion_3(folder)
        options: dict[str, Any] = {"dtype": dtype, "variant": variant}
        if place is not None:
            configs = read_configs_3(folder) if newer else read_configs(folder)
            options["shardings"] = place(configs.build(jnp.float32)[0].abstract())
        if newer:
            checkpoint = load_stable_diffusion_3(folder, **options, **third)
        else:
            checkpoint = load_stable_diffusion(folder, **options)
    if third and not isinstance(checkpoint, StableDiffusion3):
        name = next(iter(third))
        raise UserError(f"{name} is given, but {source} is no Stable Diffusion 3, which alone has a T5")
    return checkpoint
