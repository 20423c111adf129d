"""The arguments of a call, each read by itself, before anything is loaded or computed.

What arguments ask of each other and of the model is the request's (`Request.rows`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from difflax.core.bounds import MAX_EDGE, MAX_STEPS
from difflax.core.several import several
from difflax.core.spelling import choose, shown
from difflax.core.types import UserError
from difflax.data.texts import whole_text
from difflax.diffusion.samplers import SAMPLERS
from difflax.generation.rows import finite, whole

SEEDS = (0, 2**32 - 1)
MAX_IMAGES = 100_000  # of a call


@functools.singledispatch
def texts(value: Any, name: str) -> str | tuple[str, ...]:
    """A prompt, or several.

    Raises:
        UserError: it is neither a text nor a list of texts.
    """
    raise UserError(f"{name}={shown(value)}: give a text, or a list of texts")


@texts.register
def _(value: str, name: str) -> str:
    return whole_text(value)


@texts.register(list)
@texts.register(tuple)
@texts.register(np.ndarray)
def _(value: Any, name: str) -> tuple[str, ...]:
    if getattr(value, "shape", None) == ():
        raise UserError(f"{name} is an array without an axis: give a text, or a list of texts")
    return tuple(text(item, f"{name}[{i}]") for i, item in enumerate(value))


def text(value: Any, name: str) -> str:
    """One text."""
    read = texts(value, name)
    if read != value and not hasattr(value, "encode"):
        raise UserError(f"{name}={shown(value)}: give a text")
    return str(read)


def seeds(value: Any, name: str) -> int | tuple[int, ...]:
    """One seed, or several."""
    # Bytes and mappings hold numbers too, which nobody means.
    given = (value,) if hasattr(value, "decode") or hasattr(value, "keys") else several(value)
    read = tuple(whole(one, name, *SEEDS) for one in given)
    return read if hasattr(value, "__iter__") else read[0]


def numbers_finite(value: Any, name: str) -> float | tuple[float, ...]:
    """A finite number, or several."""
    # A text and a mapping are no numbers, which `finite` says; an array without axes is one.
    one = not hasattr(value, "__len__") or hasattr(value, "startswith") or hasattr(value, "keys")
    if one or getattr(value, "shape", None) == ():
        return finite(value, name)
    return tuple(finite(each, name) for each in value)


def within(low: int, high: int) -> Callable[[Any, str], int]:
    """Reads a whole number from ``low`` to ``high``."""
    return lambda value, name: whole(value, name, low, high)


def share(value: Any, name: str) -> float:
    """A share in (0, 1]; that 1 is too much for some, they say themselves."""
    number = finite(value, name)
    if not 0 < number <= 1:
        raise UserError(f"{name}={value} must lie in (0, 1]")
    return number


def truth(value: Any, name: str) -> bool:
    """``True`` or ``False``."""
    if type(value) not in (bool, np.bool):
        raise UserError(f"{name}={shown(value)}: give True or False")
    return bool(value)


def sampler(value: Any, name: str) -> Any:
    """The name of a sampler, or one itself."""
    if hasattr(value, "step") and dataclasses.is_dataclass(value):
        if hasattr(value, "__name__"):
            raise UserError(f"{name}={value.__name__}: give a sampler, {value.__name__}(), or its name")
        return value
    choose(SAMPLERS, text(value, name), name)
    return value


def numbers(value: Any, name: str) -> Any:
    """Latents: an array of floating point."""
    kind = getattr(value, "dtype", object)
    if len(getattr(value, "shape", ())) != 4 or not np.issubdtype(kind, np.floating):
        raise UserError(f"{name} must be an array of numbers, [images, height, width, channels]")
    if not np.isfinite(np.asarray(value, np.float32)).all():
        raise UserError(f"{name} holds numbers that are not finite")
    return value


READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "prompt": texts,
    "negative_prompt": texts,
    "guidance_scale": numbers_finite,
    "num_steps": within(1, MAX_STEPS),
    "sampler": sampler,
    "seed": seeds,
    "latents": numbers,
    "height": within(1, MAX_EDGE),
    "width": within(1, MAX_EDGE),
    "num_images": within(1, MAX_IMAGES),
    "strength": share,
    "invert": text,
    "denoising_start": share,
    "denoising_end": share,
    "trajectory": truth,
    **dict.fromkeys(("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3"), texts),
    "weighted": truth,
    "chunked": truth,
    "clip_skip": within(0, 1000),
    "image_guidance_scale": finite,
}
"""What reads each argument; pictures and masks, whose sizes the model decides, are read in its `Rows`."""

NEEDED = ("prompt", "seed", "num_images", "trajectory", "weighted", "chunked")
"""Arguments that may not be ``None``."""


def read_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, each read.

    Raises:
        UserError: one of another type, or out of range.
    """
    return {
        name: READERS[name](value, name)
        if name in READERS and (value is not None or name in NEEDED)
        else value
        for name, value in given.items()
    }
