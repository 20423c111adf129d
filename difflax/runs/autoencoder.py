"""An autoencoder's run: its objective, pictures of its reconstructions, and its files."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import PyTree

from difflax.config.experiments import AutoencoderExperiment
from difflax.config.files import claim_workdir
from difflax.data.records import first_usable
from difflax.models.autoencoder import encode_images
from difflax.models.autoencoder_kl import KLAutoencoder, autoencoder_network
from difflax.parallel.sharding import fetch
from difflax.pretrained.components.autoencoder import save_autoencoder
from difflax.pretrained.components.clip import load_clip
from difflax.pretrained.format.layout import AUTOENCODER
from difflax.runs.base import make_loader
from difflax.runs.diffusion import clip_folder
from difflax.training.loop import Periodic, Task
from difflax.training.objectives.autoencoding import Autoencoding, FeatureDistance
from difflax.training.state import TrainState

MEASURED = 512
"""Training images that the latents' mean and deviation are measured on."""


def prepare_autoencoder(experiment: AutoencoderExperiment, workdir: epath.Path) -> Task:
    """The loop's parts; the finished run writes ``workdir/vae`` in diffusers' layout, its latents scaled to
    zero mean and unit variance.
    """
    network_config, loss = experiment.network_config, experiment.loss
    distance = None
    if loss.features:
        clip = load_clip(clip_folder(loss.features, "config.loss.features"))
        distance = FeatureDistance(model=clip.network, params=clip.params, pixels=clip.pixels)
    claim_workdir(workdir, experiment)
    model = autoencoder_network(network_config)
    objective = Autoencoding(
        model=model, kl_weight=loss.kl_weight, feature_weight=loss.feature_weight, distance=distance
    )
    shown = experiment.data.split("test")
    pictures = np.stack([record.image for record in first_usable(shown, 8)]).astype(np.float32) / 127.5 - 1
    count = len(pictures)

    def prepare(batch: dict[str, Any]) -> PyTree:
        return {"image": batch["image"]}

    def draw(step: int, state: TrainState, logger: Any) -> None:
        from difflax.figures.grids import captioned_grid
        from difflax.figures.png import save_png

        params = _on_host(state)
        if jax.process_index() != 0:
            return
        made = reconstruct(KLAutoencoder(config=network_config), params, pictures)
        both = np.clip(np.concatenate([pictures, made]) / 2 + 0.5, 0, 1)
        grid = captioned_grid(both, ["image"] * count + ["reconstruction"] * count, columns=count)
        (workdir / "samples").mkdir(exist_ok=True)
        save_png(workdir / "samples" / f"step_{step:07d}.png", grid, {"step": step})
        logger.picture(step, "reconstructions", np.asarray(grid.convert("RGB")))

    def finish(state: TrainState) -> None:
        params = _on_host(state)
        if jax.process_index() != 0:
            return
        split = experiment.data.split("train")
        images = np.stack([record.image for record in first_usable(split, MEASURED)])
        raw = dataclasses.replace(network_config, scaling_factor=1.0, shift_factor=None)
        latents = in_batches(
            functools.partial(encode_images, KLAutoencoder(config=raw), params),
            images.astype(np.float32) / 127.5 - 1,
        )
        scaled = dataclasses.replace(
            network_config,
            shift_factor=float(latents.mean()),
            scaling_factor=float(1 / latents.std()),
            force_upcast=False,
        )
        save_autoencoder(KLAutoencoder(config=scaled), params, workdir / AUTOENCODER)

    every = experiment.training.sample_every
    return Task(
        objective=objective,
        loader=make_loader(experiment),
        prepare=prepare,
        periodic=(Periodic(every, draw),),
        finish=finish,
    )


def reconstruct(autoencoder: KLAutoencoder, params: PyTree, images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] through the latents' means and back."""
    return in_batches(functools.partial(_round_trip, autoencoder, params), images)


def in_batches(function: Any, images: np.ndarray, size: int = 64) -> np.ndarray:
    """``function`` of every image, so many a call."""
    return np.concatenate(
        [np.asarray(function(jnp.asarray(images[i : i + size]))) for i in range(0, len(images), size)]
    )


def _on_host(state: TrainState) -> PyTree:
    return fetch(state.ema_params)


@functools.partial(jax.jit, static_argnums=0)
def _round_trip(autoencoder: KLAutoencoder, params: PyTree, images: jax.Array) -> jax.Array:
    return autoencoder.decode(params, autoencoder.encode(params, images))
