"""What a pipeline is asked for: the arguments of a call, in one place, and how they are checked."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.descriptions import describe
from difflax.core.memory import check_memory
from difflax.core.several import several
from difflax.core.types import UserError
from difflax.diffusion.guidance import Guidance
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.time_grids import TimeGrid
from difflax.diffusion.time_grids.run import RunOptions
from difflax.generation.arguments import MAX_IMAGES, SEEDS, read_arguments
from difflax.generation.conditions import CONDITIONS, Condition
from difflax.generation.images import read_images, read_masks
from difflax.generation.model import Model
from difflax.generation.rows import Begins, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a call does where it says nothing else.

    Attributes:
        sampler, time_grid, num_steps, guidance: of a run.
        options: what a run does with its time grid.
        strength, mask_strength: how far a picture is noised, and one with a mask.
        strength_rounds: how a strength becomes a whole number of steps, see `levels_from`.
        height, width: of the images, in pixels.
    """

    sampler: Sampler
    time_grid: TimeGrid
    num_steps: int
    guidance: Guidance
    options: RunOptions = dataclasses.field(default_factory=RunOptions)
    strength: float = 0.8
    mask_strength: float = 1.0
    strength_rounds: Literal["down", "up"] = "down"
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Request:
    """What ``b`` prompts are to become.

    Attributes:
        prompt: one, or a list.
        negative_prompt: one for all, or one each; ``None``: the condition of dropped captions.
        guidance_scale: ``uncond + s (cond - uncond)``: 1 is off, 0 unconditional; any real number, one for
            all, or one each.
        num_steps: of the sampler.
        sampler: a name or a sampler.
        seed: one for all, or one each, from 0 to 2^32 - 1.
        latents: the noise to start from, unit variance, instead of the seed's; with ``denoising_start`` the
            latents that another model handed over.
        height, width: of the images, in pixels.
        num_images: of each prompt, one after the other, with successive seeds.
        image: start from this picture, or edit it where the checkpoint does that: uint8, or in [0, 1]; one
            for all, or one an image.
        mask: make the image anew where this is above a half, and keep ``image`` elsewhere.
        strength: how far ``image`` is noised, in (0, 1]: the share of the steps that is taken. By default
            what the checkpoint's pipeline in diffusers takes: 0.8 (XL 0.3, SD3 0.6), and with a mask 1 (XL
            0.9999, SD3 0.6).
        invert: the prompt that describes ``image``: start from its DDIM inversion under this prompt, not from
            noise, so that what ``prompt`` does not change stays. Up to ``strength``, by default 1.
        denoising_start: the share of the run that another model has made: go on from its ``latents``.
        denoising_end: the share after which another model goes on. Then what is returned are no images but
            latents, [b, lh, lw, lc], on the path of the model's schedule.
        trajectory: also return the estimates that the steps made.
        options: the arguments of a call that belong to a kind of condition, by name: see ``Options`` of the
            kinds in ``difflax.generation.conditions``.
    """

    prompt: str | Sequence[str]
    negative_prompt: str | Sequence[str] | None = None
    guidance_scale: float | int | Sequence[float | int] | None = None
    num_steps: int | None = None
    sampler: str | Sampler | None = None
    seed: int | Sequence[int] = 0
    latents: Float[Array | np.ndarray, "b lh lw lc"] | None = None
    height: int | None = None
    width: int | None = None
    _: dataclasses.KW_ONLY
    num_images: int = 1
    image: Any = None
    mask: Any = None
    strength: float | int | None = None
    invert: str | None = None
    denoising_start: float | None = None
    denoising_end: float | None = None
    trajectory: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, *arguments: Any, **named: Any) -> "Request":
        """The request of a call: the arguments by name, those of the kinds of condition among them; or one
        that is made already.

        Raises:
            UserError: an argument of another type, or out of range.
        """
        own = [field.name for field in dataclasses.fields(cls)]
        if len(arguments) == 1 and isinstance(arguments[0], cls):
            made = {name: getattr(arguments[0], name) for name in own}
            options = made.pop("options")
            named, arguments = {**made, **options, **named}, ()
        positional = [p for p in inspect.signature(cls).parameters.values() if p.kind != p.KEYWORD_ONLY]
        if len(arguments) > len(positional):
            raise UserError(f"a call takes {len(positional)} arguments without names, {len(arguments)} given")
        first = dict(zip([p.name for p in positional], arguments, strict=False))
        if twice := first.keys() & named.keys():
            raise UserError(f"{min(twice)} is given twice")
        if "prompt" not in first | named:
            raise UserError("give a prompt")
        given = read_arguments({**first, **named})
        options = {name: value for name, value in given.items() if name not in own}
        return cls(options=options, **{name: value for name, value in given.items() if name in own})

    def check(self) -> None:
        """What the arguments ask of each other, whatever the model.

        Raises:
            UserError: in one line.
        """
        prompts = several(self.prompt)
        if not prompts:
            raise UserError("prompt: the list of prompts is empty, give at least one")
        total = len(prompts) * self.num_images
        if total > MAX_IMAGES:
            raise UserError(
                f"{len(prompts)} prompts of {self.num_images:,} images are {total:,} images, {MAX_IMAGES:,}"
                " are the most in one call: make several calls"
            )
        for name in ("seed", "negative_prompt", "guidance_scale"):
            value = getattr(self, name)
            if value is not None:
                _each(value, len(prompts), name)
        last = max(several(self.seed)) + self.num_images - 1
        if last > SEEDS[1]:
            raise UserError(f"seed: the last image's would be {last}, {SEEDS[1]} is the largest: start lower")
        self._check_part()
        if self.image is None:
            for name in ("mask", "strength", "invert"):
                if getattr(self, name) is not None:
                    raise UserError(f"{name} is given without an image")
        elif self.denoising_start is not None:
            raise UserError("denoising_start goes on from latents: leave image out")

    def rows(self, model: Model, defaults: Defaults) -> Rows:
        """One row an image, checked against what the model reads.

        Raises:
            UserError: an empty list of prompts, lists of different lengths, a value out of range, or an
                argument that does not go with this model.
        """
        self.check()
        prompts, count = several(self.prompt), self.num_images
        seeds = _each(self.seed, len(prompts), "seed")
        negatives = None
        if self.negative_prompt is not None:
            each = _each(self.negative_prompt, len(prompts), "negative_prompt")
            negatives = [negative for negative in each for _ in range(count)]
        scales = None
        if hasattr(self.guidance_scale, "__len__"):
            scales = np.repeat(np.asarray(self.guidance_scale, np.float32), count)
        edges = {name: getattr(self, name) for name in ("height", "width")}
        edges = {name: getattr(defaults, name) if edge is None else edge for name, edge in edges.items()}
        shape = model.autoencoder.latent_shape(edges["height"], edges["width"])
        total = len(prompts) * count
        pixels = edges["height"] * edges["width"]
        size = f"{edges['height']} × {edges['width']} pixels"
        autoencoder = model.autoencoder
        check_memory(4 * total * pixels * autoencoder.channels, f"{total:,} images of {size} in one call")
        check_memory(4 * pixels * autoencoder.widest, f"decoding one image of {size}")
        if self.latents is not None and tuple(self.latents.shape) != (total, *shape):
            raise UserError(f"latents have shape {tuple(self.latents.shape)}, {(total, *shape)} is needed")
        for condition in model.conditions:
            condition.check(self)
        rows = Rows(
            prompts=[prompt for prompt in prompts for _ in range(count)],
            negatives=negatives,
            parts=defaults.guidance.prompts,
            scales=scales,
            seeds=(np.asarray(seeds, np.uint32)[:, None] + np.arange(count, dtype=np.uint32)).ravel(),
            latents=None if self.latents is None else jnp.asarray(self.latents, jnp.float32),
            shape=shape,
            begins="noise" if self.denoising_start is None else "latents",
            start=self.denoising_start,
            end=self.denoising_end,
            options=_options(self.options, model.conditions),
            **edges,
        )
        return self._with_picture(rows, model, defaults)

    def _check_part(self) -> None:
        start, end = self.denoising_start, self.denoising_end
        for name, value in (("denoising_start", start), ("denoising_end", end)):
            if value is not None and not 0 < value < 1:
                raise UserError(f"{name}={value} must lie in (0, 1)")
        if start is not None and self.latents is None:
            raise UserError("denoising_start goes on from the latents of another run: give latents")
        if start is not None and end is not None and start >= end:
            raise UserError(f"denoising_start={start} must be less than denoising_end={end}")

    def _with_picture(self, rows: Rows, model: Model, defaults: Defaults) -> Rows:
        """``rows`` with the picture to start from."""
        if self.image is None:
            return rows
        count = len(rows.prompts)
        image = read_images(self.image, count, model.autoencoder.channels)
        if image.shape[1:3] != (rows.height, rows.width):
            raise UserError(
                f"image is {image.shape[1]} × {image.shape[2]} pixels, {rows.height} × {rows.width} are"
                " wanted: resize it, or give height and width"
            )
        mask = None if self.mask is None else read_masks(self.mask, count, rows.height, rows.width)
        takes_image = any(c.takes_image for c in model.conditions)
        whole_run = mask is not None or takes_image
        usual = defaults.strength if mask is None else defaults.mask_strength
        usual = 1.0 if (takes_image and mask is None) or self.invert is not None else usual
        strength = usual if self.strength is None else self.strength
        # A mask at full strength leaves nothing of what was under it.
        begins: Begins = "noise" if whole_run and strength == 1 else "image"
        if self.invert is not None:
            begins = "inversion"
        return dataclasses.replace(
            rows, image=image, mask=mask, strength=strength, begins=begins, source=self.invert
        )


def takes_request(method: Callable) -> Callable:
    """Shows the arguments of a `Request`, and what they mean, as those of a method that reads ``*arguments,
    **named``.
    """
    own = list(inspect.signature(Request).parameters.values())
    more = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([this, *own[:-1], more])
    if method.__doc__ is not None:  # python -OO has none
        described = "\n".join(f"    {name}: {text}" for name, text in describe(Request).items())
        method.__doc__ = f"{inspect.cleandoc(method.__doc__)}\n\nArgs:\n{described}\n"
    return method


def _options(given: Mapping[str, Any], conditions: Sequence[Condition]) -> dict[str, Any]:
    """The options of every kind of condition that the model reads.

    Raises:
        UserError: an argument that no call has, or none of this model.
    """
    names = {c.name: [field.name for field in dataclasses.fields(c.Options)] for c in CONDITIONS.values()}
    read = [name for c in conditions for name in names[c.name]]
    for name in given:
        if name not in read:
            owners = [kind for kind, options in names.items() if name in options]
            if owners:
                raise UserError(
                    f"{name} is given, but this network reads no {' or '.join(owners).replace('_', ' ')}"
                )
            known = {field.name for field in dataclasses.fields(Request)} - {"options"} | set(read)
            raise UserError(f"a call has no argument {name!r}; valid: {', '.join(sorted(known))}")
    return {
        c.name: c.Options(**{name: given[name] for name in names[c.name] if name in given})
        for c in conditions
    }


def _each(value: Any, count: int, name: str) -> tuple:
    """One value for all, or a list with one for each."""
    values = several(value, count)
    if len(values) != count:
        raise UserError(f"{name}: {len(values)} given for {count} prompts")
    return values
