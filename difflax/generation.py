"""Prompts in, images out: the one place that joins text encoder, denoiser, guidance, sampler and decoder."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from difflax import streams
from difflax.diffusion.denoisers import NetworkInput, make_denoiser, time_of
from difflax.diffusion.guidance import Guidance, Guided, Prompts, TwoConditions
from difflax.diffusion.level_sequences import levels_between
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.run_options import RunOptions
from difflax.diffusion.samplers.base import Sampler, sample
from difflax.diffusion.samplers.inpaint import Inpaint
from difflax.diffusion.schedules import NoiseLevel, NoiseSchedule, add_noise, noise_level
from difflax.diffusion.time_grids import TimeGrid, pad_levels
from difflax.micro_conditioning import MicroConditioning
from difflax.models.autoencoder import Codec
from difflax.models.functional import Functional, conditional_network
from difflax.models.perturbation import Perturbation
from difflax.pretrained.checkpoint import CLIPS, DENOISERS, Checkpoint, networks_of, put_networks
from difflax.pretrained.lora import merge_lora
from difflax.pretrained.schedulers import DynamicCheckpointFlow, Sampling
from difflax.pretrained.stable_diffusion import Configs, save_stable_diffusion
from difflax.pretrained.stable_diffusion_3 import Configs3, save_stable_diffusion_3
from difflax.pretrained.textual_inversion import add_token, read_embeddings, single_encoder
from difflax.request import Begins, Request
from difflax.text.prompts import PromptEncoder, encode_prompts
from difflax.types import Conditioning, Params, UserError

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


@dataclasses.dataclass(frozen=True)
class WeakModel:
    """The worse model of autoguidance and perturbation guidance.

    Attributes:
        model: another network, ``None`` for the pipeline's own with its own parameters.
        perturbation: of that network.
    """

    model: Functional | None = None
    perturbation: Perturbation | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A trained model with all that it takes to make images of prompts.

    Attributes:
        params: of ``model``.
        codec_params: of ``codec``.
        text_encoder: prompts to ``Conditioning``.
        null: the condition that training put in place of dropped captions, one row: the negative where no
            negative prompt is given.
        sampler, time_grid, num_steps, guidance: the defaults of a call. ``guidance`` has a ``scale`` field.
        options: what a run does with its time grid.
        weak, weak_params: the worse model for guidances that need one, and its parameters.
        unit_start: whether a run starts from noise of unit variance at any level, see
            `difflax.pretrained.schedulers.Sampling`.
        fills_masks: whether the network also reads a mask and the image under it (inpainting checkpoints).
        edits_images: whether it also reads the image that it edits (InstructPix2Pix).
        sizes: how many numbers the network reads beside the text, see `MicroConditioning`; 0: none.
        refines: whether it only goes on from what another model made (Stable Diffusion XL's refiner).
        strength: how far an image is noised unless a call says otherwise.
        height, width: of the images, in pixels, unless a call says otherwise.
        batch_size: the most images in one call of the network's program; smaller requests are filled up to a
            power of two, so that few programs are ever compiled. A batch is spread over all local devices.
        step: of training that the parameters come from.
        configs: the files of the checkpoint that it was loaded from, for saving.
    """

    model: Functional
    params: Params
    codec: Codec
    codec_params: Params = dataclasses.field(default_factory=dict)
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
            codec=checkpoint.codec,
            codec_params=checkpoint.codec_params,
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
        condition = functools.partial(self._condition, weighted=weighted, chunked=chunked)
        guided = self._guided(request, condition, pieces=weighted or chunked)
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
        guided = self._guided(request, self._condition, pieces=False)
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
            latent = latent or self.codec.latent_shape(self.height, self.width)[:2]
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
            codec_params=self.codec_params,
            text_encoder=self.text_encoder,
        )

    def with_lora(self, loras: Sequence[tuple[epath.PathLike, float]]) -> "Pipeline":
        """The pipeline with LoRA files merged in, each ``(file or folder, weight)``.

        Raises:
            UserError: a file that is none, or of another model; see `difflax.pretrained.lora.read_lora`.
        """
        networks = networks_of(self.configs, self.params, self.text_encoder)
        adaptable = {name: params for name, params in networks.items() if name in (*DENOISERS, *CLIPS)}
        for path, weight in loras:
            adaptable = merge_lora(path, adaptable, weight)
        params, encoder = put_networks(self.configs, self.text_encoder, networks | adaptable)
        return dataclasses.replace(self, params=params).with_text_encoder(encoder)

    def with_textual_inversion(self, path: epath.PathLike, token: str | None = None) -> "Pipeline":
        """The pipeline with the token of a textual inversion's file; prompts may then name it.

        Args:
            token: how prompts name it; ``None``: as the file does.

        Raises:
            UserError: no such file, one of another model, or a token that the tokenizer already has.
        """
        token, rows = read_embeddings(path, token)
        return self.with_text_encoder(add_token(single_encoder(self.text_encoder), token, rows))

    def with_text_encoder(self, encoder: PromptEncoder) -> "Pipeline":
        """The pipeline with another text encoder, and what it says of no prompt."""
        null = self.null
        if not self._null_is_zero:
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

    def _condition(
        self, prompts: Sequence[str], *, weighted: bool = False, chunked: bool = False
    ) -> Conditioning:
        """What the network is told of each prompt, in the fields that it was trained with; equal prompts are
        encoded once.
        """
        unique = list(dict.fromkeys(prompts))
        rows = np.asarray([unique.index(prompt) for prompt in prompts])
        # Filled up to whole batches, as the encoder would: another number of prompts compiles nothing.
        filled = unique + [""] * (-len(unique) % self.text_encoder.batch_size)
        if weighted or chunked:
            encoded = encode_prompts(self.text_encoder, filled, weighted=weighted, chunked=chunked)
        else:
            encoded = self.text_encoder.encode(filled)
        if self.null.pooled is None:
            encoded = dataclasses.replace(encoded, pooled=None)
        return jax.tree.map(lambda a: a[rows], encoded)

    def _guided(self, request: Request, condition: Any, *, pieces: bool) -> Guided | Prompts | TwoConditions:
        """What a guidance goes towards and away from, one row an image; a composition's prompts are joined by
        "AND".
        """
        count = len(request.prompts)
        if self.guidance.reads is TwoConditions and not self.edits_images:
            raise UserError(
                "two_condition guidance goes with checkpoints that edit images (InstructPix2Pix): this one"
                " has no image as a condition"
            )
        if self.guidance.reads is Prompts:
            return self._composed(request, condition)
        if pieces:
            # Together, so that both have as many pieces.
            both = condition([*request.prompts, *(request.negatives or [""] * count)])
            positive = jax.tree.map(lambda a: a[:count], both)
            negative = jax.tree.map(lambda a: a[count:], both)
            if request.negatives is None and self._null_is_zero:
                negative = jax.tree.map(jnp.zeros_like, negative)
        else:
            positive = condition(request.prompts)
            negative = self._negative(request, condition)
        positive, negative = _with_sizes(request, positive, negative)
        if self.fills_masks:
            under = self._encode(request.image * (1 - request.mask))
            seen = jnp.concatenate([self._latent_mask(request), under], axis=-1)
            positive, negative = (dataclasses.replace(c, image=seen) for c in (positive, negative))
        if self.edits_images:
            # As it was trained: in the encoder's own numbers, which are not scaled to unit variance.
            seen = self.codec.unscale(self._encode(request.image))
            positive, negative = (dataclasses.replace(c, image=seen) for c in (positive, negative))
        if self.guidance.reads is TwoConditions:
            neither = dataclasses.replace(negative, image=jnp.zeros_like(negative.image))
            return TwoConditions(both=positive, image=negative, neither=neither)
        return Guided(positive=positive, negative=negative)

    def _composed(self, request: Request, condition: Any) -> Prompts:
        needed, parts = self.guidance.prompts, [prompt.split(" AND ") for prompt in request.prompts]
        for prompt, found in zip(request.prompts, parts, strict=True):
            if len(found) != needed:
                raise UserError(
                    f"prompt {prompt!r}: {needed} prompts joined by ' AND ' are needed, one for each weight"
                    " of the guidance"
                )
        if self.fills_masks or self.edits_images:
            raise UserError(
                "a checkpoint that reads an image takes no composed prompts: choose another guidance"
            )
        prompts = [condition(list(column)) for column in zip(*parts, strict=True)]
        *prompts, negative = _with_sizes(request, *prompts, self._negative(request, condition))
        return Prompts(tuple(prompts), negative)

    def _negative(self, request: Request, condition: Any) -> Conditioning:
        """What training put in place of dropped captions, or the negative prompts."""
        if request.negatives is not None:
            return condition(request.negatives)
        count = len(request.prompts)
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape[1:])), self.null)

    @functools.cached_property
    def _null_is_zero(self) -> bool:
        """Whether no negative prompt is the zero condition, and not that of an empty prompt."""
        return not any(np.any(leaf) for leaf in jax.tree.leaves(self.null))

    def _latent_mask(self, request: Request) -> Float[np.ndarray, "b lh lw 1"]:
        height, width, _ = request.shape
        edge_h, edge_w = request.mask.shape[1] // height, request.mask.shape[2] // width
        return request.mask[:, ::edge_h, ::edge_w]

    def _encode(self, images: np.ndarray) -> Float[Array, "b lh lw lc"]:
        parts = [
            _encode(self.codec, self.codec_params, jnp.asarray(images[start : start + self.batch_size]))
            for start in range(0, len(images), self.batch_size)
        ]
        return jnp.concatenate(parts)

    @functools.cached_property
    def _devices(self) -> Mesh | None:
        """All local devices in a row, or ``None`` where there is one or the parameters have their own."""
        leaves = jax.tree.leaves(self.params)
        spread = any(isinstance(a, jax.Array) and len(a.sharding.device_set) > 1 for a in leaves)
        devices = jax.local_devices()
        return None if spread or len(devices) == 1 else Mesh(np.asarray(devices), ("data",))

    @functools.cached_property
    def _placed(self) -> tuple[Params, Params]:
        """Parameters of the network and the codec where a batch finds them."""
        both = (self.params, self.codec_params)
        if self._devices is None:
            return both
        return jax.device_put(both, NamedSharding(self._devices, PartitionSpec()))

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
        params, codec_params = self._placed
        weak_params = self.weak_params
        if self.weak is not None and weak_params is None:
            weak_params = params
        run = functools.partial(
            _sample_batch,
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
            padded,
            self.guidance_of_run(scales[0], levels, scales[1]),
            self.weak,
            weak_params,
        )
        known = mask = None
        reads_image = self.fills_masks or self.edits_images
        if request.image is not None and (request.begins == "image" or not reads_image):
            known = self._encode(request.image)
        if request.mask is not None and not self.fills_masks:
            mask = self._latent_mask(request)
        finish = functools.partial(_decode, self.codec, codec_params)
        if request.end is not None:
            finish = functools.partial(jnp.multiply, _length_on_path(self.schedule, levels[-1]))
        images, estimates = [], []
        count, devices = len(request.prompts), 1 if self._devices is None else self._devices.size
        batch_size = max(self.batch_size // devices, 1) * devices
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            size = min(batch_size, devices * (1 << (-(-(stop - start) // devices) - 1).bit_length()))
            rows = np.minimum(np.arange(start, start + size), stop - 1)
            keys = jax.vmap(lambda s: streams.stream(s, "sample"))(jnp.asarray(request.seeds[rows]))
            inputs = jax.tree.map(
                lambda a, rows=rows: jnp.asarray(a)[rows], (guided, request.latents, known, mask)
            )
            if self._devices is not None:
                spread = NamedSharding(self._devices, PartitionSpec("data"))
                keys, inputs = jax.device_put((keys, inputs), spread)
            latents, made = run(keys, *inputs)
            images.append(np.asarray(finish(latents))[: stop - start])
            if trajectory:
                decoded = jax.vmap(functools.partial(_decode, self.codec, codec_params))(made)
                estimates.append(np.asarray(decoded)[:, : stop - start])
        return np.concatenate(images), np.concatenate(estimates, axis=1) if trajectory else np.zeros(0)


@functools.partial(jax.jit, static_argnums=(*range(9), 12))
def _sample_batch(
    model: Functional,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    network_input: NetworkInput,
    sampler: Sampler,
    shape: tuple[int, int, int],
    unit_start: bool,
    begins: Begins,
    trajectory: bool,
    params: Params,
    levels: NoiseLevel,
    guidance: Guidance,
    weak: WeakModel | None,
    weak_params: Params | None,
    keys: Key[Array, " b"],
    conditioning: Guided | Prompts | TwoConditions,
    noise: Float[Array, "b lh lw lc"] | None,
    known: Float[Array, "b lh lw lc"] | None,
    mask: Float[Array, "b lh lw 1"] | None,
) -> tuple[Array, Array | None]:
    """One batch of latents; scale, prompts, seeds and the number of steps are traced or padded, and compile
    nothing.
    """
    denoise = make_denoiser(
        conditional_network(model), params, schedule, prediction_type, network_input=network_input
    )
    worse = None
    if weak is not None:
        network = conditional_network(weak.model or model, weak.perturbation)
        worse = make_denoiser(network, weak_params, schedule, prediction_type, network_input=network_input)
    if noise is None:
        noise = streams.normal(streams.substream(keys, "init"), shape)
    first = levels[0]
    if begins == "image":
        x_init = add_noise(known, noise, first)
    elif begins == "latents":
        x_init = noise / _length_on_path(schedule, first)
    else:
        x_init = (jnp.hypot(first.alpha, first.sigma) if unit_start else first.sigma) * noise
    if mask is not None:
        sampler = Inpaint(sampler=sampler, known=known, mask=1 - mask)
    made = sample(
        guidance.wrap(denoise, worse),
        sampler,
        levels,
        x_init.astype(jnp.float32),
        streams.substream(keys, "steps"),
        conditioning=conditioning,
        return_trajectory=trajectory,
    )
    return made if trajectory else (made, None)


def _length_on_path(schedule: NoiseSchedule, level: NoiseLevel) -> Float[Array, ""]:
    """What turns latents at ``level`` into those of the schedule's own path."""
    own = noise_level(schedule, time_of(schedule, level))
    return jnp.hypot(own.alpha, own.sigma) / jnp.hypot(level.alpha, level.sigma)


def _with_sizes(request: Request, *conditions: Conditioning) -> tuple[Conditioning, ...]:
    """The conditions, of which the last is the negative, with the numbers that the network reads."""
    if request.time_ids is None:
        return conditions
    told = [request.time_ids[0]] * (len(conditions) - 1) + [request.time_ids[1]]
    count = len(request.prompts)
    return tuple(
        dataclasses.replace(condition, time_ids=jnp.broadcast_to(numbers, (count, len(numbers))))
        for condition, numbers in zip(conditions, told, strict=True)
    )


@functools.partial(jax.jit, static_argnums=0)
def _decode(codec: Codec, params: Params, latents: Float[Array, "b lh lw lc"]) -> Float[Array, "b h w c"]:
    return jnp.clip(codec.decode(params, latents) / 2 + 0.5, 0, 1)


@functools.partial(jax.jit, static_argnums=0)
def _encode(codec: Codec, params: Params, images: Float[Array, "b h w c"]) -> Float[Array, "b lh lw lc"]:
    return codec.encode(params, images)
