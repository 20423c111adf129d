"""difflax: config-driven text-to-image diffusion research in JAX.

import difflax
pipeline = difflax.load("runs/shapes")
images = pipeline("a large red circle in the top left", guidance_scale=3.0, seed=0)
"""

import os
import typing

from difflax.core.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from difflax.generation.pipeline import Pipeline
    from difflax.parallel.sharding import MeshShape


def load(workdir: str | os.PathLike[str], mesh: "MeshShape | None" = None) -> "Pipeline":
    """The trained model of a workdir, ready to make images; see `difflax.generation.pipeline.Pipeline`.

    Args:
        mesh: the devices along each axis; ``None``: as in training, where there are as many devices.

    Raises:
        difflax.core.types.UserError: if ``workdir`` holds no trained diffusion model.
    """
    # Imported here, so that importing difflax stays light.
    from difflax import runs

    return runs.load(workdir, mesh)


def from_pretrained(
    source: str,
    *,
    dtype: typing.Any = "float32",
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    batch_size: int | None = None,
    tile: int | None = None,
    config: str | None = None,
    tokenizer: str | None = None,
    prediction_type: str | None = None,
    t5: bool | None = None,
    t5_length: int | None = None,
) -> "Pipeline":
    """A Stable Diffusion 1.x, 2.x, XL, 3 or 3.5 checkpoint, ready to make images; see
    `difflax.generation.pipeline.Pipeline`.

    Args:
        source: a folder in diffusers' layout, a Hub id, or a ``.safetensors`` file in the original layout.
        dtype: of computation and parameters, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        variant: of the weights, ``"fp16"``; with a single file, of those of ``config``.
        revision, cache_dir, local_files_only: of the Hub, see `difflax.pretrained.format.hub.download`.
        batch_size: images in one call of the network; 4 a device by default.
        tile: edge of the tiles, in pixels, in which larger images are decoded; ``None`` decodes in one piece.
        config, tokenizer, prediction_type: of a single file, see `difflax.pretrained.open_file`.
        t5, t5_length: of Stable Diffusion 3's third text encoder: ``False`` leaves it out; tokens a prompt,
            256 by default.

    Raises:
        difflax.core.types.UserError: a checkpoint that cannot be had, is damaged, or is not supported.
    """
    from difflax import runs

    return runs.from_pretrained(
        source,
        dtype=dtype,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        batch_size=batch_size,
        tile=tile,
        config=config,
        tokenizer=tokenizer,
        prediction_type=prediction_type,
        t5=t5,
        t5_length=t5_length,
    )
