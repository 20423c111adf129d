"""Prompts in, images out: the one place that joins text encoder, denoiser, guidance, sampler and decoder."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from difflax.core.types import Conditioning, Params, UserError
from difflax.diffusion.denoisers import NetworkInput, time_of
from difflax.diffusion.guidance import Guidance, Guided, Prompts, TwoConditions
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import NoiseLevel, NoiseSchedule
from difflax.diffusion.time_grids import TimeGrid, pad_levels
from difflax.diffusion.time_grids.run import RunOptions
from difflax.diffusion.time_grids.sequences import levels_between
from difflax.generation.conditions import conditions
from difflax.generation.request import Request
from difflax.generation.run import WeakModel, decode, encode, length_on_path, sample_batch
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional
from difflax.models.size_conditioning import MicroConditioning
from difflax.parallel.sharding import (
    TENSOR_RULES,
    MeshShape,
    Rule,
    batch_sharding,
    fetch,
    put,
    shardings,
)
from difflax.pretrained.adapters.lora import merge_lora
from difflax.pretrained.adapters.textual_inversion import add_word, read_word
from difflax.pretrained.components.schedulers import DynamicCheckpointFlow, Sampling
from difflax.pretrained.families.base import Checkpoint, networks_of, put_networks
from difflax.pretrained.families.sd import Configs, save_stable_diffusion
from difflax.pretrained.families.sd3 import Configs3, save_stable_diffusion_3
from difflax.text.prompts import PromptEncoder

STEPS_COMPILED = 50
"""Runs are compiled for whole multiples of this many steps, so that other step counts compile nothing."""


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
    """A trained model with all that it takes to make images of prompts.

    Attributes:
        params: of ``model``.
        autoencoder_params: of ``autoencoder``.
        text_encoder: prompts to ``Conditioning``.
        null: the condition that training put in place of dropped captions, one row: the negative where no
            negative prompt is given.
        sampler, time_grid, num_steps, guidance: the defaults of a call. ``guidance`` has a ``scale`` field.
        options: what a run does with its time grid.
        weak, weak_params: the worse model for guidances that need one, and its parameters.
        unit_start: whether a run starts from noise of unit variance at any level, see
            `difflax.pretrained.components.schedulers.Sampling`.
        fills_masks: whether the network also reads a mask and the image under it (inpainting checkpoints).
        edits_images: whether it also reads the image that it edits (InstructPix2Pix).
        sizes: how many numbers the network reads beside the text, see `MicroConditioning`; 0: none.
        refines: whether it only goes on from what another model made (Stable Diffusion XL's refiner).
        strength: how far an image is noised unless a call says otherwise.
        height, width: of the images, in pixels, unless a call says otherwise.
        batch_size: the most images in one call of the network's program; smaller requests are filled up to a
            power of two, so that few programs are ever compiled. A batch is spread over the mesh.
        mesh: devices that share the work, as in training: a batch is split along ``data`` and ``fsdp``,
            parameters by ``rules``. Where it spans several processes, all of them call, and all get all
            images. ``None``: that of the parameters if they are spread already, else all local devices
            along ``data``.
        rules: see `shardings`.
        step: of training that the parameters come from.
        configs: the files of the checkpoint that it was loaded from, for saving.
    """

    model: Functional
    params: Params
    autoencoder: Autoencoder
    autoencoder_params: Params = dataclasses.field(default_factory=dict)
    schedule: NoiseSchedule
    prediction_type: PredictionType
    network_input: NetworkInput
    text_encoder: PromptEncoder
    null: Conditioning
    samplers: dict[str, Sampler]
    sampler: Sampler
    time_grid: TimeGrid
    num_steps: int
    guidance: Guidance
    options: RunOptions = dataclasses.field(default_factory=RunOptions)
    weak: WeakModel | None = None
    weak_params: Params | None = None
    unit_start: bool = False
    fills_masks: bool = False
    edits_images: bool = False
    sizes: int = 0
    refines: bool = False
    strength: float = 0.8
    height: int
    width: int
    batch_size: int = 64
    mesh: Mesh | None = None
    rules: tuple[Rule, ...] = TENSOR_RULES
    step: int = 0
    configs: Configs | Configs3 | None = None

    @classmethod
    def of_checkpoint(
        cls,
        checkpoint: Checkpoint,
        samplers: dict[str, Sampler],
        guidance: Guidance | None = None,
        **settings: Any,
    ) -> "Pipeline":
        """The pipeline of a checkpoint of the Hub, by default with its own guidance; ``settings`` are other
        fields.
        """
        sampling = {f.name: getattr(checkpoint.sampling, f.name) for f in dataclasses.fields(Sampling)}
        height, width = checkpoint.image_size
        return cls(
            model=checkpoint.model,
            params=checkpoint.params,
            autoencoder=checkpoint.autoencoder,
            autoencoder_params=checkpoint.autoencoder_params,
            text_encoder=checkpoint.text_encoder,
            null=checkpoint.null,
            samplers=samplers,
            guidance=checkpoint.guidance if guidance is None else guidance,
            fills_masks=checkpoint.fills_masks,
            edits_images=checkpoint.edits_images,
            sizes=checkpoint.sizes,
            refines=checkpoint.refines,
            strength=0.3 if checkpoint.refines else 0.8,
            height=height,
            width=width,
            configs=checkpoint.configs,
            **sampling,
            **settings,
        )

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | int | None = None,
        num_steps: int | None = None,
        sampler: str | Sampler | None = None,
        seed: int | Sequence[int] = 0,
        latents: Float[Array | np.ndarray, "b lh lw lc"] | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        num_images: int = 1,
        image: Any = None,
        mask: Any = None,
        strength: float | None = None,
        image_guidance_scale: float | int | None = None,
        weighted: bool = False,
        chunked: bool = False,
        micro: MicroConditioning | None = None,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
    ) -> Float[np.ndarray, "b h w c"]:
        """Images of ``b`` prompts, float32 [b, height, width, channels] in [0, 1].

        An image depends on its own prompt, negative prompt, seed, picture and mask alone.

        Args:
            negative_prompt: one for all, or one each; ``None``: the condition of dropped captions.
            guidance_scale: ``uncond + s (cond - uncond)``: 1 is off, 0 unconditional; any real number.
            num_steps: of the sampler.
            sampler: a name or a sampler.
            seed: one for all, or one each.
            latents: the noise to start from, unit variance, instead of the seed's; with ``denoising_start``
                the latents that another model handed over.
            num_images: of each prompt, one after the other, with successive seeds.
            image: start from this picture, or edit it where the checkpoint does that: uint8, or in [0, 1];
                one for all, or one an image.
            mask: make the image anew where this is above a half, and keep ``image`` elsewhere.
            strength: how far ``image`` is noised, in (0, 1]: the share of the steps that is taken. Default
                0.8 (refiners 0.3), and 1 with a mask.
            image_guidance_scale: of ``two_condition`` guidance: how much an edited image is kept, 1 is off.
            weighted: prompts have weights in brackets, ``(word:1.3)``; see `encode_prompts`.
            chunked: a prompt that is too long is encoded in pieces, and not cut.
            micro: the sizes and the frame that Stable Diffusion XL is told; by default those of a whole image
                of the size that is made.
            denoising_start: the share of the run that another model has made: go on from its ``latents``.
            denoising_end: the share after which another model goes on. Then what is returned are no images
                but latents, [b, lh, lw, lc], on the path of ``schedule``.

        Raises:
            UserError: for an empty list of prompts, lists of different lengths, or a value out of range.
        """
        request = Request.make(self, prompt, negative_prompt, seed, num_images, latents, height, width)
        request = request.with_part(denoising_start, denoising_end).with_image(self, image, mask, strength)
        request = request.with_micro(self, micro)
        guided = conditions(self, request, weighted=weighted, chunked=chunked)
        scales = (guidance_scale, image_guidance_scale)
        return self._generate(request, guided, scales, num_steps, sampler, trajectory=False)[0]

    def trajectory(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | int | None = None,
        num_steps: int | None = None,
        sampler: str | Sampler | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Denoised:
        """The images of a call with every step's estimate of them; arguments as there."""
        request = Request.make(self, prompt, negative_prompt, seed, 1, None, None, None)
        request = request.with_image(self, None, None, None).with_micro(self, None)
        guided = conditions(self, request)
        images, estimates = self._generate(
            request, guided, (guidance_scale, None), num_steps, sampler, trajectory=True
        )
        levels = self.levels(self.num_steps if num_steps is None else num_steps)
        return Denoised(images, estimates, np.asarray(levels.log_snr[:-1]))

    def levels(self, num_steps: int, latent: tuple[int, int] | None = None) -> NoiseLevel:
        """The noise levels of a run.

        Args:
            latent: height and width of the image's latent; ``None``: of the default size.

        Raises:
            UserError: for a number of steps that the time grid cannot make.
        """
        grid = self.time_grid
        if isinstance(grid, DynamicCheckpointFlow):
            latent = latent or self.autoencoder.latent_shape(self.height, self.width)[:2]
            grid = dataclasses.replace(grid, latent=latent)
        try:
            return self.options.levels(self.schedule, grid, num_steps, self.prediction_type)
        except ValueError as error:
            raise UserError(f"num_steps={num_steps}: {error}") from error

    def part_of(self, levels: NoiseLevel, start: float | None, end: float | None) -> NoiseLevel:
        """The steps of a run from its share ``start`` to its share ``end``, each in (0, 1) or ``None``.

        Raises:
            UserError: there is no step in it, or the run goes back up.
        """
        if start is None and end is None:
            return levels
        if self.options.restart is not None:
            raise UserError("a run that goes back up (restart) has no parts: give no denoising_start or _end")
        limits = [None if share is None else self.network_input.boundary(share) for share in (start, end)]
        try:
            return levels_between(levels, np.asarray(time_of(self.schedule, levels)), *limits)
        except ValueError as error:
            raise UserError(f"denoising_start={start}, denoising_end={end}: {error}") from error

    def with_guidance_scale(
        self, scale: float | int | None, image_scale: float | int | None = None
    ) -> Guidance:
        """The default guidance, at ``scale`` and ``image_scale`` if they are given.

        Raises:
            UserError: one that is no finite number, or that the guidance does not have.
        """
        guidance = self.guidance
        given = {"guidance_scale": scale, "image_guidance_scale": image_scale}
        for name, value in given.items():
            if value is None:
                continue
            if not np.isfinite(value):
                raise UserError(f"{name}={value}: give a finite number")
            change = guidance.with_scale if name == "guidance_scale" else guidance.with_image_scale
            try:
                guidance = change(float(value))
            except ValueError as error:
                raise UserError(f"{name}={value}: {error}") from error
        return guidance

    def guidance_of_run(
        self, scale: float | int | None, levels: NoiseLevel, image_scale: float | int | None = None
    ) -> Guidance:
        """The guidance of a run over ``levels``, its strengths as arrays.

        Raises:
            UserError: for a scale that is no number, or a guidance that does not fit the run's steps.
        """
        try:
            guidance = self.with_guidance_scale(scale, image_scale).resolve(self.schedule, levels)
        except ValueError as error:
            raise UserError(f"guidance: {error}") from error
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), guidance)

    def save_pretrained(self, directory: epath.PathLike) -> None:
        """Writes a folder in diffusers' layout, which PyTorch diffusers and `difflax.from_pretrained` read.

        Raises:
            UserError: the model has no form that diffusers knows.
        """
        if self.configs is None:
            raise UserError(
                f"save_pretrained({str(directory)!r}): only a model that came from a checkpoint in diffusers'"
                " layout can be saved in it"
            )
        save = save_stable_diffusion_3 if isinstance(self.configs, Configs3) else save_stable_diffusion
        save(
            directory,
            configs=self.configs,
            params=self.params,
            autoencoder_params=self.autoencoder_params,
            text_encoder=self.text_encoder,
        )

    def with_lora(self, loras: Sequence[tuple[epath.PathLike, float]]) -> "Pipeline":
        """The pipeline with LoRA files merged in, each ``(file or folder, weight)``; also LoHa, LoKr, DoRA
        and whole differences.

        Raises:
            UserError: a file that is none, or of another model; see `read_lora`.
        """
        networks = networks_of(self.configs, self.params, self.text_encoder)
        for path, weight in loras:
            networks = merge_lora(path, networks, weight)
        params, encoder = put_networks(self.configs, self.text_encoder, networks)
        return dataclasses.replace(self, params=params).with_text_encoder(encoder)

    def with_textual_inversion(self, path: epath.PathLike, token: str | None = None) -> "Pipeline":
        """The pipeline with the token of a textual inversion's file; prompts may then name it.

        Args:
            token: how prompts name it; ``None``: as the file does, or as it is named (A1111, Stable Diffusion
                XL).

        Raises:
            UserError: no such file, one of another model, or a token that the tokenizer already has.
        """
        return self.with_text_encoder(add_word(self.text_encoder, read_word(path, token)))

    def with_text_encoder(self, encoder: PromptEncoder) -> "Pipeline":
        """The pipeline with another text encoder, and what it says of no prompt."""
        null = self.null
        if not self.null_is_zero:
            null = encoder.encode([""])
            null = dataclasses.replace(null, pooled=None) if self.null.pooled is None else null
        return dataclasses.replace(self, text_encoder=encoder, null=null)

    def _sampler(self, sampler: str | Sampler | None) -> Sampler:
        if sampler is None:
            return self.sampler
        if isinstance(sampler, str):
            if sampler not in self.samplers:
                raise UserError(f"sampler={sampler!r}: choose from {', '.join(sorted(self.samplers))}")
            return self.samplers[sampler]
        return sampler

    @functools.cached_property
    def null_is_zero(self) -> bool:
        """Whether no negative prompt is the zero condition, and not that of an empty prompt."""
        return not any(np.any(leaf) for leaf in jax.tree.leaves(self.null))

    def encode_images(self, images: Float[np.ndarray, "b h w c"]) -> Float[Array, "b lh lw lc"]:
        """Latents of images in [-1, 1]."""
        parts = []
        for rows, count in self._batches(len(images)):
            given = put(images[rows], batch_sharding(self._mesh))
            parts.append(fetch(encode(self.autoencoder, self._placed[1], given))[:count])
        return jnp.asarray(np.concatenate(parts))

    def _batches(self, count: int) -> Iterator[tuple[np.ndarray, int]]:
        """The rows of every batch of ``count``, its last filled up by repeating the last row, and how many of
        them count.
        """
        shares = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        batch_size = max(self.batch_size // shares, 1) * shares
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            size = min(batch_size, shares * (1 << (-(-(stop - start) // shares) - 1).bit_length()))
            yield np.minimum(np.arange(start, start + size), stop - 1), stop - start

    @functools.cached_property
    def _mesh(self) -> Mesh:
        if self.mesh is not None:
            return self.mesh
        for leaf in jax.tree.leaves(self.params):
            if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
                return leaf.sharding.mesh
        return MeshShape().make(jax.local_devices())

    @functools.cached_property
    def _placed(self) -> tuple[Params, Params, Params | None]:
        """Parameters of the network, the autoencoder and the worse model on the mesh."""
        trees = (self.params, self.autoencoder_params, self.weak_params)
        return put(trees, shardings(trees, self._mesh, self.rules))

    def _generate(
        self,
        request: Request,
        guided: Guided | Prompts | TwoConditions,
        scales: tuple[float | int | None, float | int | None],
        num_steps: int | None,
        sampler: str | Sampler | None,
        *,
        trajectory: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        num_steps = self.num_steps if num_steps is None else num_steps
        levels = request.levels(self, self.levels(num_steps, request.shape[:2]))
        steps = levels.t.shape[0] - 1
        padded = (
            levels if trajectory else pad_levels(levels, -(-steps // STEPS_COMPILED) * STEPS_COMPILED + 1)
        )
        params, autoencoder_params, weak_params = self._placed
        if self.weak is not None and weak_params is None:
            weak_params = params
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        run = functools.partial(
            sample_batch,
            self.model,
            self.schedule,
            self.prediction_type,
            self.network_input,
            self._sampler(sampler),
            request.shape,
            self.unit_start,
            request.begins,
            trajectory,
            params,
            put(padded, everywhere),
            put(self.guidance_of_run(scales[0], levels, scales[1]), everywhere),
            self.weak,
            weak_params,
            self._mesh,
        )
        known = mask = None
        reads_image = self.fills_masks or self.edits_images
        if request.image is not None and (request.begins == "image" or not reads_image):
            known = self.encode_images(request.image)
        if request.mask is not None and not self.fills_masks:
            mask = request.latent_mask
        finish = functools.partial(decode, self.autoencoder, autoencoder_params)
        if request.end is not None:
            finish = functools.partial(jnp.multiply, np.asarray(length_on_path(self.schedule, levels[-1])))
        images, estimates = [], []
        given = (request.seeds, guided, request.latents, known, mask)
        for rows, count in self._batches(len(request.prompts)):
            inputs = jax.tree.map(lambda a, rows=rows: jnp.asarray(a)[rows], given)
            latents, made = run(*put(inputs, batch_sharding(self._mesh)))
            images.append(fetch(finish(latents))[:count])
            if trajectory:
                decoded = jax.vmap(functools.partial(decode, self.autoencoder, autoencoder_params))(made)
                estimates.append(fetch(decoded)[:, :count])
        return np.concatenate(images), np.concatenate(estimates, axis=1) if trajectory else np.zeros(0)
