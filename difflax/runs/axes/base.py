"""What an axis of a sweep is: how its values are read, and what they change."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from difflax.diffusion.guidance import Guidance
from difflax.generation.model import WeakModel
from difflax.generation.pipeline import Pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Which weights make an arm's images.

    Attributes:
        source: the workdir of a run, or the folder or Hub id of a checkpoint.
        step: of the run's checkpoint, or of its snapshot with ``ema_length``; ``None``: the newest.
        ema_length: the length (sigma_rel) of a power-function average that is rebuilt from the run's
            snapshots; ``None``: the average of the checkpoint.
        dtype: what a checkpoint is computed in; ``None``: as the command says.
        lora: file or folder of a LoRA that is merged in; ``None``: none.
        lora_scale: what it is multiplied by.
    """

    source: str
    step: int | None = None
    ema_length: float | None = None
    dtype: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """How the images of an arm are made.

    Attributes:
        pipeline: with the arm's guidance and defaults.
        workdir: of the run that it comes from; ``None`` for a checkpoint.
        arguments: of every call.
        methods: guidances with the worse models that they go away from, by their sections, once they are
            loaded: one object for all arms, which would else be compiled again.
    """

    pipeline: Pipeline
    workdir: str | None
    methods: dict[str, tuple[Guidance, WeakModel | None]]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def called_with(self, name: str, value: Any) -> "Setup":
        """The same with an argument of the call."""
        return dataclasses.replace(self, arguments={**self.arguments, name: value})

    def with_pipeline(self, pipeline: Pipeline) -> "Setup":
        """The same with another pipeline."""
        return dataclasses.replace(self, pipeline=pipeline)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweptAxis:
    """One thing that a sweep may change. It changes the weights, or the setup, or is an argument that each
    image of a batch has for itself.

    Attributes:
        label: in plots and tables.
        takes: its values in words, for errors and the list of axes.
        read: ``read(value, where)``, a JSON value in the one form that it is stored in; raises ``UserError``.
        weights: the weights with the value; where it is given, a model is loaded for each value.
        change: the setup with the value.
        argument: of the call, one value an image; ``None`` in place of a value leaves it out for all.
    """

    label: str
    takes: str
    read: Callable[[Any, str], Any]
    weights: Callable[[Weights, Any], Weights] | None = None
    change: Callable[[Setup, Any], Setup] | None = None
    argument: str | None = None
