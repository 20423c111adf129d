"""Bits per dimension: how well a run's model predicts real images that it was not trained on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Key

from difflax.config.embedded import find_workdir
from difflax.config.files import read_workdir
from difflax.core import streams
from difflax.core.types import Conditioning, Params, UserError
from difflax.diffusion.denoisers import make_denoiser
from difflax.diffusion.likelihood import bits_per_dimension, log_likelihood
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, as_time, log_snr
from difflax.diffusion.time_grids import UniformLogSNR, sampling_levels
from difflax.evaluation.ablation.results import Likelihood
from difflax.generation.model import Model
from difflax.generation.pipeline import Pipeline

LARGEST_SIGMA = 200.0
"""Where ``sigma / alpha`` of pixels is so large that a run may start there for schedules without an end."""


def likelihood(pipeline: Pipeline, workdir: epath.PathLike, count: int, num_steps: int) -> Likelihood:
    """Bits per dimension of the first ``count`` images of the test split, each under its own caption and
    without guidance, by ``num_steps`` steps of the probability-flow ODE.

    An image's grey values are spread evenly over their own width first (dequantised), so the mean is an upper
    bound on the bits that the model needs for the images themselves.

    Raises:
        UserError: fewer test images than that, or latents that lose a part of the image.
    """
    model = pipeline.model
    if model.autoencoder.log_volume is None:
        raise UserError(
            f"--bits_per_dimension: {workdir} denoises latents of a trained autoencoder, which have no"
            " density of pixels: name a run whose autoencoder is identity, patchify or cosine_transform"
        )
    experiment = read_workdir(find_workdir(workdir))
    split = experiment.data.split("test")
    if not 2 <= count <= len(split):
        raise UserError(f"--bits_per_dimension={count}: give a number of test images from 2 to {len(split)}")
    rows = [split[i] for i in range(count)]
    images = np.stack([row.image for row in rows])
    conditioning = experiment.model.reading(model.text_encoder.encode([row.caption for row in rows]))
    frames = {
        "original_size": np.tile(np.int32(images.shape[1:3]), (count, 1)),
        "corner": np.zeros((count, 2), np.int32),
        "score": np.asarray([getattr(row, "score", 0.0) or 0.0 for row in rows], np.float32),
    }
    for kind in model.conditions:
        conditioning = kind.of_batch(conditioning, frames, images.shape[1:3])
    levels = sampling_levels(model.schedule, _grid(model.schedule), num_steps + 1)[:-1]
    keys = streams.sample_keys(streams.stream(0, "likelihood"), jnp.arange(count))
    size = min(pipeline.devices.batch_size, count)
    bits_of = jax.jit(functools.partial(_bits, model))
    bits = []
    for start in range(0, count, size):
        # The last batch is filled up, so that one program serves all.
        taken = np.minimum(np.arange(start, start + size), count - 1)
        batch = jax.tree.map(lambda a, taken=taken: jnp.asarray(a)[taken], (images, keys, conditioning))
        bits.append(np.asarray(bits_of(model.params, levels, *batch))[: count - start])
    values = np.concatenate(bits).astype(np.float64)
    return Likelihood(
        bits_per_dimension=float(values.mean()),
        standard_error=float(values.std(ddof=1) / np.sqrt(count)),
        images=count,
        method=f"probability-flow ODE, {num_steps} steps of Runge-Kutta, one Hutchinson probe an image,"
        " uniform dequantisation of 256 grey values, own captions, no guidance",
    )


def _grid(schedule: NoiseSchedule) -> UniformLogSNR:
    """Down to the schedule's noise at t = 1/1000, from its end or, if that has no signal, from far up."""
    end = float(jnp.exp(-log_snr(schedule, as_time(1.0)) / 2))
    return UniformLogSNR(sigma_max=min(end, LARGEST_SIGMA))


def _bits(
    model: Model,
    params: Params,
    levels: NoiseLevel,
    images: Array,
    keys: Key[Array, " b"],
    conditioning: Conditioning,
) -> Float[Array, " b"]:
    """Bits per dimension of images of bytes."""
    spread = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))
    noise = spread(streams.substream(keys, "dequantise"))
    latents = model.autoencoder.encode({}, (images + noise - 0.5) / 127.5 - 1)
    denoise = make_denoiser(
        model.network.module(params),
        model.schedule,
        model.prediction_type,
        network_input=model.network_input,
    )
    found = log_likelihood(
        denoise,
        levels,
        latents,
        streams.substream(keys, "probes"),
        conditioning=conditioning,
        prior_std=jnp.sqrt(jnp.mean(latents**2)),
    )
    values = images[0].size
    return bits_per_dimension(found + values * model.autoencoder.log_volume, values)
