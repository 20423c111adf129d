"""The sections of a run that starts from a checkpoint, and the checkpoint itself."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from difflax.config import build, construct
from difflax.data.sources import Source
from difflax.diffusion.guidance import Guidance
from difflax.diffusion.samplers import SAMPLERS
from difflax.experiment.networks import NETWORKS, check_scores
from difflax.experiment.sections import make_guidance, make_loss, make_settings
from difflax.generation import Pipeline
from difflax.models.layers import choose
from difflax.models.remat import POLICIES
from difflax.pretrained.checkpoint import Checkpoint
from difflax.pretrained.families import open_checkpoint
from difflax.pretrained.schedulers import flow_shift
from difflax.pretrained.stable_diffusion_3 import StableDiffusion3
from difflax.training.checkpoints import Checkpoints
from difflax.training.finetuning import CODEC
from difflax.training.objectives import network_params
from difflax.training.sharding import shardings
from difflax.training.tunings import TUNINGS, Tuning
from difflax.types import UserError

STORED = "pretrained"
"""The checkpoint's copy in a workdir."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedOptions:
    """``config.model`` of a run that starts from a checkpoint.

    Attributes:
        path: a folder in diffusers' layout, a Hub id, or a ``.safetensors`` file in the original layout.
        variant, revision: see `difflax.pretrained.hub.fetch`; empty for none.
        config: of a single file, a pipeline folder or Hub id; see `difflax.pretrained.single_file`.
        dtype: of the computation; parameters are float32.
        vae_dtype: of the autoencoder's computation.
        remat: of the UNet or transformer, see ``difflax.models.remat``.
        scan_layers: its blocks of the same structure as one loop, see ``difflax.models.blocks``.
        copy: keep the checkpoint in the workdir, so that the workdir alone is enough; otherwise ``path`` must
            stay what it is.
        t5, t5_length: of Stable Diffusion 3's third text encoder: ``False`` leaves it out; tokens a prompt.
            ``None`` for the checkpoint's own.
        time_shift: how far a flow's training times are moved towards the noise; 0 for as far as the
            checkpoint's scheduler moves the times of sampling.
    """

    path: str
    variant: str = ""
    revision: str = ""
    config: str = ""
    dtype: str = "bfloat16"
    vae_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False
    copy: bool = True
    t5: bool | None = None
    t5_length: int | None = None
    time_shift: float = 0.0

    def __post_init__(self):
        choose(DTYPES, self.dtype, "dtype")
        choose(DTYPES, self.vae_dtype, "vae_dtype")
        choose(POLICIES, self.remat, "remat")
        if not 0 <= self.time_shift < math.inf:
            raise ValueError(f"time_shift must not be negative, got {self.time_shift}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """``config.cache``: what is computed once before training, and not in every step.

    Attributes:
        latents: what the autoencoder says of the images; they are not mirrored then.
        text: what the text encoder says of the captions, where it is not trained.
    """

    latents: bool = False
    text: bool = False

    def replaces(self, network: str) -> bool:
        """Whether no step runs the network of that name any more."""
        return self.latents if network == CODEC else self.text and network.startswith("text_encoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """``config.sampler``: the rest is the checkpoint's own."""

    num_steps: int = 50

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The parts of the config, built and checked; nothing is read or computed yet."""

    model: PretrainedOptions
    tuning: Tuning
    cache: CacheOptions
    loss: dict[str, Any]
    num_steps: int
    guidance: Guidance


def make_pretrained(config: ConfigDict) -> Pretrained:
    """The parts of the config of a run that starts from a checkpoint.

    Raises:
        UserError: naming the key, its value and what is valid.
    """
    model = {key: value for key, value in config.model.items() if key != "name"}
    tuning = build(TUNINGS, config.tune, "config.tune")
    cache = construct(CacheOptions, config.cache, "config.cache")
    guidance, weak = make_guidance(config.guidance)
    if weak is not None:
        raise UserError("config.guidance.weak: a pretrained model has no worse one; take another guidance")
    if cache.text and tuning.trains_text:
        raise UserError("config.cache.text: the text encoder is trained, its states change; set it to False")
    parts = make_loss(config.loss)
    if cache.latents and config.data.get("flip"):
        raise UserError("config.cache.latents: cached images are not mirrored; set config.data.flip = 0")
    if cache.latents and config.data.get("buckets"):
        raise UserError("config.cache.latents: buckets have latents of several shapes; set it to False")
    if cache.latents and parts["loss"].masked:
        raise UserError("config.cache.latents does not go with config.loss.masked, whose masks it leaves out")
    return Pretrained(
        model=construct(PretrainedOptions, model, "config.model (pretrained)"),
        tuning=tuning,
        cache=cache,
        loss=parts,
        num_steps=construct(SamplerOptions, config.sampler, "config.sampler").num_steps,
        guidance=guidance,
    )


def read_checkpoint(options: PretrainedOptions, workdir: epath.Path, mesh: Mesh | None = None) -> Checkpoint:
    """The checkpoint with float32 parameters, ready for the tuning: the workdir's copy, or that of ``path``.
    The denoising network of a folder is read straight to its places on ``mesh``.

    Raises:
        UserError: it cannot be had, is damaged or is not supported.
    """
    place = None if mesh is None else functools.partial(shardings, mesh=mesh)
    third = {"t5": options.t5, "t5_length": options.t5_length}
    stored = workdir / STORED
    if stored.exists():
        checkpoint = open_checkpoint(stored, place=place, **third)
    else:
        checkpoint = open_checkpoint(
            options.path,
            variant=options.variant or None,
            revision=options.revision or None,
            config=options.config or None,
            place=place,
            **third,
        )
    if checkpoint.fills_masks or checkpoint.edits_images:
        does = "fills masks in" if checkpoint.fills_masks else "edits images"
        raise UserError(
            f"config.model.path = {options.path!r} {does}, and is not trained here: take a checkpoint whose"
            " UNet reads the noisy image alone"
        )
    if options.time_shift and flow_shift(checkpoint.sampling.time_grid, (1, 1)) is None:
        raise UserError(
            f"config.model.time_shift = {options.time_shift}: {options.path!r} is no flow, whose times alone"
            " are shifted; set 0"
        )
    dtypes = {"dtype": DTYPES[options.dtype], "codec_dtype": DTYPES[options.vae_dtype]}
    return checkpoint.computing_in(**dtypes, remat=options.remat, scan_layers=options.scan_layers)


def check_source(checkpoint: Checkpoint, source: Source) -> None:
    """Refuses images that the checkpoint cannot be trained on."""
    channels = source.image_shape[-1]
    if channels != checkpoint.codec.channels:
        raise UserError(
            f"the images of config.data have {channels} channels, the autoencoder reads"
            f" {checkpoint.codec.channels}: choose data with as many"
        )
    for height, width, _ in getattr(source, "image_shapes", (source.image_shape,)):
        try:
            latent = checkpoint.codec.latent_shape(height, width)
            if isinstance(checkpoint, StableDiffusion3):
                NETWORKS["mmdit"].check_latent(checkpoint.configs.transformer, *latent[:2])
        except UserError as error:
            raise UserError(f"config.data.height, width: {error}") from error
    check_scores(checkpoint.sizes, source, "the UNet of config.model.path")


def pipeline_of(parts: Pretrained, checkpoint: Checkpoint, size: tuple[int, int]) -> Pipeline:
    """The pipeline of a checkpoint with the run's defaults; ``size``: height and width of the images."""
    made = Pipeline.of_checkpoint(
        checkpoint,
        samplers={name: cls() for name, cls in SAMPLERS.items()},
        guidance=parts.guidance,
        num_steps=parts.num_steps,
        batch_size=4 * jax.local_device_count(),
    )
    return dataclasses.replace(made, height=size[0], width=size[1])


def load_pretrained_run(config: ConfigDict, workdir: epath.Path) -> Pipeline:
    """The pipeline of a workdir of such a run, from its newest checkpoint's averaged parameters."""
    parts = make_pretrained(config)
    checkpoint = parts.tuning.prepare(read_checkpoint(parts.model, workdir))
    key = jax.random.key(0)
    abstract = jax.eval_shape(lambda: parts.tuning.init(key, checkpoint.networks))
    checkpoints = Checkpoints(workdir / "checkpoints")
    trained, step = checkpoints.restore_params(abstract), checkpoints.latest
    checkpoints.close()
    merged = merged_checkpoint(parts.tuning, checkpoint, trained)
    made = pipeline_of(parts, merged, make_settings(config).source.image_shape[:2])
    return dataclasses.replace(made, step=step)


def merged_checkpoint(tuning: Tuning, checkpoint: Checkpoint, trained: Any) -> Checkpoint:
    """The checkpoint with what was trained in it."""
    frozen = tuning.frozen(checkpoint.networks)
    return checkpoint.with_networks(tuning.merge(frozen, network_params(trained)))
