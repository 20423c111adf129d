"""Prompts in, images out: the one place that joins a model, the defaults of a call and the devices."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.data.fingerprints import arrays_fingerprint
from difflax.diffusion.guidance import Guidance
from difflax.generation.adapters import with_lora, with_textual_inversion
from difflax.generation.conditions import named
from difflax.generation.devices import Devices
from difflax.generation.model import Model, WeakModel
from difflax.generation.program import sample_batch
from difflax.generation.request import Defaults, Request, takes_request
from difflax.generation.run import Run
from difflax.parallel.sharding import fetch
from difflax.pretrained.families.base import Checkpoint


@dataclasses.dataclass(frozen=True)
class Denoised:
    """Images with the estimates that led to them.

    Attributes:
        images: float32 [b, h, w, c] in [0, 1].
        estimates: the decoded estimate of x0 that every step made, [steps, b, h, w, c] in [0, 1].
        log_snr: of the level that each step started from, [steps].
    """

    images: Float[np.ndarray, "b h w c"]
    estimates: Float[np.ndarray, "steps b h w c"]
    log_snr: Float[np.ndarray, " steps"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A trained model, ready to make images.

    Attributes:
        defaults: what a call does where it says nothing else.
        devices: that share the work.
    """

    model: Model
    defaults: Defaults
    devices: Devices = dataclasses.field(default_factory=Devices)

    @classmethod
    def of_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        devices: Devices,
        guidance: Guidance | None = None,
        num_steps: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> "Pipeline":
        """The pipeline of a checkpoint of the Hub.

        Args:
            guidance, num_steps, size: instead of the checkpoint's own; height and width in pixels.
        """
        sampling = checkpoint.sampling
        height, width = checkpoint.image_size if size is None else size
        conditions = named(checkpoint.conditions)
        model = Model(
            network=checkpoint.model,
            params=checkpoint.params,
            autoencoder=checkpoint.autoencoder,
            autoencoder_params=checkpoint.autoencoder_params,
            schedule=sampling.schedule,
            prediction_type=sampling.prediction_type,
            network_input=sampling.network_input,
            text_encoder=checkpoint.text_encoder,
            null=checkpoint.null,
            conditions=conditions,
            unit_start=sampling.unit_start,
            configs=checkpoint.configs,
        )
        defaults = Defaults(
            sampler=sampling.sampler,
            time_grid=sampling.time_grid,
            num_steps=checkpoint.num_steps if num_steps is None else num_steps,
            guidance=checkpoint.guidance if guidance is None else guidance,
            options=sampling.options,
            strength=checkpoint.strength.picture,
            mask_strength=checkpoint.strength.mask,
            strength_rounds=checkpoint.strength.rounds,
            height=height,
            width=width,
        )
        return cls(model=model, defaults=defaults, devices=devices)

    @takes_request
    def __call__(self, *arguments: Any, **named: Any) -> Float[np.ndarray, "b h w c"] | Denoised:
        """Images of a `Request`, whose fields are the arguments: float32 [b, height, width, channels] in
        [0, 1].

        An image depends on its own prompt, negative prompt, seed, picture and mask alone.

        Raises:
            UserError: for an empty list of prompts, lists of different lengths, a value out of range, or an
                argument that the model has no use for.
        """
        run = Run.make(Request.of(*arguments, **named), *self._placed)
        images, estimates = [], []
        for each, count in run.batches():
            latents, steps = sample_batch(run.program, run.shared, each)
            images.append(run.finished(latents, count))
            if steps is not None:
                estimates.append(run.finished(steps, count))
        made = np.concatenate(images)
        return Denoised(made, np.concatenate(estimates, axis=1), run.log_snr) if estimates else made

    @takes_request
    def trajectory(self, *arguments: Any, **named: Any) -> Denoised:
        """The images of a call with every step's estimate of them."""
        return self(*arguments, trajectory=True, **named)

    @functools.cached_property
    def _placed(self) -> tuple[Model, Defaults, Devices]:
        """What `Run.make` reads, the model's parameters on the mesh."""
        devices = self.devices.of(self.model.params)
        return devices.place(self.model), self.defaults, devices

    def fingerprint(self) -> str:
        """A hash of all that decides an image beside the arguments of a call: the weights as they were
        loaded, with what was merged into them, in their types; the text encoder and its words; the
        mathematics; the defaults. Several processes must all ask.

        The network's sizes have no part in it: they are in the config that the weights came with.
        """
        model = self.model
        weak = model.weak
        arrays = (model.params, model.autoencoder_params, None if weak is None else weak.params, model.null)
        return arrays_fingerprint(
            fetch(arrays),
            model.text_encoder.fingerprint(),
            model.autoencoder,
            model.schedule,
            model.prediction_type,
            model.network_input,
            model.unit_start,
            model.conditions,
            None if weak is None else weak.perturbation,
            self.defaults,
        )

    def with_guidance(self, guidance: Guidance, weak: WeakModel | None = None) -> "Pipeline":
        """The pipeline with another guidance by default, and the worse model that it goes away from."""
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, weak=weak),
            defaults=dataclasses.replace(self.defaults, guidance=guidance),
        )

    def with_lora(self, loras: Sequence[tuple[epath.PathLike, float]]) -> "Pipeline":
        """The pipeline with LoRA files merged in; see `difflax.generation.adapters.with_lora`."""
        return dataclasses.replace(self, model=with_lora(self.model, loras))

    def with_textual_inversion(self, path: epath.PathLike, token: str | None = None) -> "Pipeline":
        """The pipeline with a learned word; see `difflax.generation.adapters.with_textual_inversion`."""
        return dataclasses.replace(self, model=with_textual_inversion(self.model, path, token))

    def save_pretrained(self, directory: epath.PathLike) -> None:
        """Writes a folder in diffusers' layout, which PyTorch diffusers and `difflax.from_pretrained` read.

        Raises:
            UserError: the model has no form that diffusers knows.
        """
        self.model.save(directory)
