"""The axes of a run: its sampler, its noise levels, and what it goes away from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from difflax.config.resolve import read_section
from difflax.config.schema import Section
from difflax.core.bounds import MAX_STEPS
from difflax.core.spelling import choose, shown
from difflax.core.types import Conditioning, UserError
from difflax.data.texts import whole_text
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.time_grids import TIME_GRIDS
from difflax.generation.model import Model
from difflax.generation.rows import whole
from difflax.runs.axes.base import Setup, SweptAxis

SAMPLER, TIME_GRID = Section(of=SAMPLERS), Section(of=TIME_GRIDS)


def _made(section: Section, value: Any, where: str) -> Any:
    """The object of a name, or of a section with a name."""
    if not section.takes(value) and not hasattr(value, "encode"):
        raise UserError(
            f"{where}: {shown(value)}: give a name of {', '.join(section.names)}, or a section with one"
        )
    return read_section(section, value if section.takes(value) else {"name": value}, where)


def _sampler(value: Any, where: str) -> Any:
    _made(SAMPLER, value, where)
    return value


def _time_grid(value: Any, where: str) -> Any:
    _made(TIME_GRID, value, where)
    return value


def _with_time_grid(setup: Setup, value: Any) -> Setup:
    grid = _made(TIME_GRID, value, "time_grid")
    defaults = dataclasses.replace(setup.pipeline.defaults, time_grid=grid)
    return setup.with_pipeline(dataclasses.replace(setup.pipeline, defaults=defaults))


def _negative(value: Any, where: str) -> str | None:
    if value is not None and not hasattr(value, "encode"):
        raise UserError(f"{where}: {shown(value)} is no text: put it in double quotes, or give none")
    return None if value is None else whole_text(value)


def _null(value: Any, where: str) -> str | dict[str, str]:
    """A name, or one for each of some text encoders."""
    if not hasattr(value, "items"):
        name = "training" if value is None else str(value)
        choose(NULLS, name, where)
        return name
    return {str(encoder): _null(name, f"{where}: {encoder}") for encoder, name in value.items()}


def _zeros(model: Model) -> Conditioning:
    return jax.tree.map(jnp.zeros_like, model.null)


def _empty(model: Model) -> Conditioning:
    encoded = model.text_encoder.encode([""])
    return dataclasses.replace(encoded, pooled=None) if model.null.pooled is None else encoded


NULLS = {"training": lambda model: model.null, "zeros": _zeros, "empty": _empty}
"""What stands in the place of the prompt where no negative prompt is given, by name: what training put in
place of dropped captions, zeros, or an empty prompt.
"""


OTHER_ENCODERS = "rest"
"""The text encoders for which nothing else is said."""


def _of_each(model: Model, value: Mapping[str, str]) -> Conditioning:
    """Of each text encoder the part of the null condition that is named for it."""
    names = model.text_encoders
    for name in value:
        if name not in (*names, OTHER_ENCODERS):
            known = ", ".join((*names, OTHER_ENCODERS))
            raise UserError(f"null: {name}: this model has no such text encoder: name some of {known}")
    rest = value.get(OTHER_ENCODERS, "training")
    return model.text_encoder.picked([NULLS[value.get(name, rest)](model) for name in names])


def _with_null(setup: Setup, value: Any) -> Setup:
    model = setup.pipeline.model
    null = _of_each(model, value) if hasattr(value, "items") else NULLS[value](model)
    model = dataclasses.replace(model, null=null)
    return setup.with_pipeline(dataclasses.replace(setup.pipeline, model=model))


SAMPLING_AXES: Mapping[str, SweptAxis] = {
    "null": SweptAxis(
        label="null condition",
        takes=f"names of {', '.join(NULLS)}, or one for each text encoder: {{'text_encoder_2': 'zeros'}}",
        read=_null,
        change=_with_null,
    ),
    "time_grid": SweptAxis(
        label="time grid",
        takes="names of time grids, or sections as in a config, {'name': 'karras', 'rho': 5}",
        read=_time_grid,
        change=_with_time_grid,
    ),
    "sampler": SweptAxis(
        label="sampler",
        takes="names of samplers, or sections as in a config, {'name': 'ddim', 'eta': 0.5}",
        read=_sampler,
        change=lambda setup, value: setup.called_with("sampler", _made(SAMPLER, value, "sampler")),
    ),
    "num_steps": SweptAxis(
        label="steps",
        takes="whole numbers",
        read=lambda value, where: whole(value, where, 1, MAX_STEPS),
        change=lambda setup, value: setup.called_with("num_steps", value),
    ),
    "negative_prompt": SweptAxis(
        label="negative prompt",
        takes='texts, "" the empty one, or none',
        read=_negative,
        argument="negative_prompt",
    ),
}
