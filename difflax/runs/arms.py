"""From the arms of a sweep to images: one pipeline for all arms that share a program, each with its call."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from difflax.config.embedded import find_workdir
from difflax.config.files import read_workdir
from difflax.core.types import UserError
from difflax.diffusion.guidance import Guidance
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import NoiseLevel
from difflax.diffusion.time_grids import pad_levels
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.sweep import Painter
from difflax.evaluation.ablation.values import canonical
from difflax.generation.model import Model
from difflax.generation.pipeline import Pipeline
from difflax.generation.request import Request
from difflax.generation.run import UnconditionalWarning, padded_length
from difflax.generation.settings import run_guidance, run_levels, run_sampler
from difflax.runs.axes import SWEPT_AXES, Setup, Weights
from difflax.training.runtime.averages import trained_weights
from difflax.training.runtime.snapshots import Snapshots

PROBE = "a"
"""The prompt that a request is checked with."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """What a call of a pipeline comes to.

    Attributes:
        shape: of one latent.
        levels: padded.
        guidance: of these levels, its strengths as arrays.
    """

    model: Model
    shape: tuple[int, int, int]
    sampler: Sampler
    levels: NoiseLevel
    guidance: Guidance


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Studio:
    """What makes the images of any arm.

    Attributes:
        base: the model as it is.
        weights: its own.
        open: loads others.
        of_run: whether models are the workdirs of runs.
        arguments: of every call, where an arm says nothing else.
    """

    base: Pipeline
    weights: Weights
    open: Callable[[Weights], Pipeline]
    of_run: bool
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def painter(self) -> Painter:
        """The same as a sweep asks for it."""
        return Painter(
            draw=self.draw,
            family=self.family,
            model=lambda arm: repr(self.weights_of(arm)),
            fingerprint=self.fingerprint,
            labels={name: axis.label for name, axis in SWEPT_AXES.items()},
        )

    def draw(
        self, prompts: list[str], seeds: Int[np.ndarray, " n"], arms: list[Arm]
    ) -> Float[np.ndarray, "n h w c"]:
        """Images in [0, 1], each of its own arm, all of one family."""
        return self._made_of(prompts, seeds, arms)

    def follow(
        self, prompts: list[str], seeds: Int[np.ndarray, " n"], arm: Arm
    ) -> tuple[Float[np.ndarray, "steps n h w c"], Float[np.ndarray, " steps"]]:
        """The estimates of x0 that led to the images of an arm, in [0, 1], and the log-SNR of each step."""
        made = self._made_of(prompts, seeds, [arm] * len(prompts), trajectory=True)
        return made.estimates, made.log_snr

    def _made_of(
        self, prompts: list[str], seeds: Int[np.ndarray, " n"], arms: list[Arm], trajectory: bool = False
    ) -> Any:
        setup = self.setup(arms[0])
        arguments = {**setup.arguments, **self.of_images(arms)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnconditionalWarning)  # a sweep that contains 0 means it
            return setup.pipeline(prompts, seed=seeds.tolist(), trajectory=trajectory, **arguments)

    def of_images(self, arms: Sequence[Arm]) -> dict[str, Any]:
        """The arguments of a call that each image has for itself."""
        given = {}
        for name, axis in SWEPT_AXES.items():
            if axis.argument is not None and name in arms[0].settings:
                values = [arm.settings[name] for arm in arms]
                given[axis.argument] = None if values[0] is None else values
        return given

    def family(self, arm: Arm) -> str:
        """What an arm has in common with those that may stand in its batches: all but the arguments that each
        image has for itself.
        """
        shared = {
            name: ["of each image", value is None] if SWEPT_AXES[name].argument is not None else value
            for name, value in arm.settings.items()
        }
        return canonical(shared)

    def setup(self, arm: Arm) -> Setup:
        """How an arm's images are made, the arguments of each image apart.

        Raises:
            UserError: the model cannot have such a setting.
        """
        return self._setup(self.family(arm), arm)

    @functools.cached_property
    def _setup(self) -> Callable[[str, Arm], Setup]:
        """Keeps the latest one, so that its parameters are placed once."""
        kept: dict[str, Setup] = {}

        def setup(family: str, arm: Arm) -> Setup:
            if family not in kept:
                kept.clear()
                kept[family] = self._made(arm)
            return kept[family]

        return setup

    def _made(self, arm: Arm) -> Setup:
        weights = self.weights_of(arm)
        return self.changed(self.begun(self._opened(weights), weights), arm)

    def changed(self, setup: Setup, arm: Arm) -> Setup:
        """A setup with what an arm changes beside the weights."""
        for name, axis in SWEPT_AXES.items():
            if axis.change is not None and name in arm.settings:
                setup = axis.change(setup, arm.settings[name])
        return setup

    @functools.cached_property
    def _methods(self) -> dict[Weights, dict]:
        """What `Setup.methods` is for the base and for the latest other weights."""
        return {self.weights: {}}

    def begun(self, pipeline: Pipeline, weights: Weights) -> Setup:
        """The setup of a model before anything is changed."""
        if weights not in self._methods:
            base = self._methods[self.weights]
            self._methods.clear()
            self._methods.update({self.weights: base, weights: {}})
        return Setup(
            pipeline=pipeline,
            workdir=weights.source if self.of_run else None,
            methods=self._methods[weights],
            arguments=self.arguments,
        )

    def weights_of(self, arm: Arm) -> Weights:
        """The weights of an arm."""
        weights = self.weights
        for name, axis in SWEPT_AXES.items():
            if axis.weights is not None and name in arm.settings:
                weights = axis.weights(weights, arm.settings[name])
        return weights

    @functools.cached_property
    def _opened(self) -> Callable[[Weights], Pipeline]:
        """Keeps the latest model beside the base."""
        kept: dict[Weights, Pipeline] = {}

        def opened(weights: Weights) -> Pipeline:
            if weights == self.weights:
                return self.base
            if weights not in kept:
                kept.clear()
                kept[weights] = self._loaded(weights)
            return kept[weights]

        return opened

    def _loaded(self, weights: Weights) -> Pipeline:
        plain = dataclasses.replace(weights, lora=None, lora_scale=1.0)
        pipeline = self.base
        if plain != self.weights:
            pipeline = self.open(plain)
            sizes = [(p.defaults.height, p.defaults.width) for p in (pipeline, self.base)]
            if sizes[0] != sizes[1]:
                raise UserError(
                    f"the images of {weights.source} have {sizes[0]} pixels, those of {self.weights.source}"
                    f" {sizes[1]}: compare models of one size"
                )
            if (plain.source, plain.dtype) == (self.weights.source, self.weights.dtype):
                # Other parameters of the same networks, which are not compiled again.
                own, new = self.base.model, pipeline.model
                model = dataclasses.replace(own, params=new.params, step=new.step, weak=new.weak)
                pipeline = dataclasses.replace(pipeline, model=model)
        return pipeline if weights.lora is None else pipeline.with_lora([(weights.lora, weights.lora_scale)])

    def fingerprint(self, arm: Arm) -> str:
        """Of the arm's own model, "" where it is the base with other settings."""
        if self.weights_of(arm) == self.weights and "weak" not in canonical(arm.settings.get("guidance")):
            return ""
        return self.setup(arm).pipeline.fingerprint()

    def check(self, arms: Sequence[Arm]) -> None:
        """Refuses arms that the model cannot have, before anything is drawn.

        Raises:
            UserError: in one line, with the arm.
        """
        for weights in dict.fromkeys(self.weights_of(arm) for arm in arms):
            self._check_weights(weights)
        seen = set()
        for arm in arms:
            settings = {name: v for name, v in arm.settings.items() if SWEPT_AXES[name].weights is None}
            own = Arm(settings=settings)
            if own.key in seen:
                continue
            seen.add(own.key)
            try:
                self.call(own)
            except UserError as error:
                raise UserError(f"{own.label}: {error}") from error

    def _check_weights(self, weights: Weights) -> None:
        """What can be known of weights that are not loaded."""
        if self.of_run:
            if weights.dtype is not None:
                raise UserError("dtype: a run is computed as its config says: this axis is of --pretrained")
            folder = epath.Path(find_workdir(weights.source))
            if not folder.is_dir():
                raise UserError(f"model={weights.source}: no such folder")
            if weights.ema_length is not None:
                check_length(folder, weights.ema_length, weights.step)
            elif weights.step is not None:
                steps = kept_steps(folder)
                if weights.step not in steps:
                    raise UserError(f"step={weights.step}: {weights.source} has kept {steps}")
        elif weights.ema_length is not None:
            raise UserError(
                f"ema={weights.ema_length:g}: a checkpoint has one set of weights: give --workdir"
            )
        elif weights.step is not None:
            raise UserError(f"step={weights.step}: a checkpoint has no steps of training: give --workdir")
        if weights.lora is not None and not epath.Path(weights.lora).exists():
            raise UserError(f"lora={weights.lora}: no such file or folder")

    def call(self, arm: Arm) -> Call:
        """What an arm's call comes to, with the base's weights where the arm has others.

        Raises:
            UserError: the model cannot be asked so.
        """
        setup = self.changed(self.begun(self.base, self.weights), arm)
        model, defaults = setup.pipeline.model, setup.pipeline.defaults
        prompt = " AND ".join([PROBE] * defaults.guidance.prompts)
        request = Request.of(prompt, **{**setup.arguments, **self.of_images([arm])})
        rows = request.rows(model, defaults)
        levels = run_levels(model, defaults, request.num_steps or defaults.num_steps, rows.shape[:2])
        return Call(
            model=model,
            shape=rows.shape,
            sampler=run_sampler(request.sampler, defaults.sampler),
            levels=pad_levels(levels, padded_length(levels)),
            guidance=run_guidance(defaults.guidance, request.guidance_scale, model, rows, levels),
        )


def kept_steps(workdir: epath.Path) -> list[int]:
    """The steps of which a run has kept parameters."""
    weights = trained_weights(workdir)
    steps = list(weights.steps)
    weights.close()
    return steps


def check_length(workdir: epath.Path, length: float, step: int | None) -> None:
    """Refuses an average that a run's snapshots cannot be summed to.

    Raises:
        UserError: no snapshots, none of that step, or too few for the length.
    """
    snapshots = Snapshots(workdir, read_workdir(workdir).ema)
    snapshots.plan(length, step)
    snapshots.close()
