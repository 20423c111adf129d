"""The axes that change the weights: the model, its checkpoint, its type, and a LoRA in it."""

import dataclasses
from typing import Any

from difflax.config.pretrained import DTYPES
from difflax.core.spelling import choose, shown
from difflax.core.types import UserError
from difflax.generation.rows import finite, whole
from difflax.runs.axes.base import SweptAxis, Weights
from difflax.training.power_averages import EMA_LENGTHS


def text(value: Any, where: str) -> str:
    """A text that is not empty.

    Raises:
        UserError: it is none.
    """
    if not value or not hasattr(value, "encode"):
        raise UserError(f"{where}: {shown(value)} is no text")
    return str(value)


def _dtype(value: Any, where: str) -> str:
    choose(DTYPES, text(value, where), where)
    return value


def _lora(value: Any, where: str) -> str | None:
    return None if value is None else text(value, where)


def _length(value: Any, where: str) -> float | None:
    """The length of an average, ``None`` for that of the checkpoint."""
    if value is None:
        return None
    EMA_LENGTHS.check(length := finite(value, where), where)
    return length


def _set(name: str) -> Any:
    def weights(before: Weights, value: Any) -> Weights:
        return dataclasses.replace(before, **{name: value})

    return weights


WEIGHTS_AXES = {
    "model": SweptAxis(
        label="model",
        takes="workdirs of runs, or folders or Hub ids of checkpoints",
        read=text,
        weights=_set("source"),
    ),
    "step": SweptAxis(
        label="training step",
        takes="steps whose checkpoints the run has kept",
        read=lambda value, where: whole(value, where, 0),
        weights=_set("step"),
    ),
    "ema": SweptAxis(
        label="EMA length",
        takes="lengths (sigma_rel) of power-function averages, or none for the checkpoint's own average",
        read=_length,
        weights=_set("ema_length"),
    ),
    "dtype": SweptAxis(
        label="type of numbers",
        takes=f"{', '.join(DTYPES)}, of checkpoints",
        read=_dtype,
        weights=_set("dtype"),
    ),
    "lora": SweptAxis(label="LoRA", takes="files or folders, or none", read=_lora, weights=_set("lora")),
    "lora_scale": SweptAxis(
        label="LoRA weight", takes="finite numbers", read=finite, weights=_set("lora_scale")
    ),
}
