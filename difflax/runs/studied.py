"""A trained model of the shapes world as a study sees it: what it is asked, and what reads its pictures."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from difflax.config.embedded import find_workdir
from difflax.config.files import read_workdir
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.data.shapes.examples import PROMPTS
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.results import AblationResult, Provenance, command_line
from difflax.evaluation.ablation.sweep import run_ablation, run_sweep
from difflax.evaluation.ablation.tables import write_tables
from difflax.evaluation.measurement import Instruments, PromptGroup
from difflax.generation.pipeline import Pipeline
from difflax.generation.run import UnconditionalWarning
from difflax.runs.arms import Studio
from difflax.runs.axes import Weights
from difflax.runs.guidance import with_guidance
from difflax.runs.load import load

REAL_IMAGES = 128
"""True renders of a study's prompts, for the lines of real images."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Studied:
    """A trained model with what it is asked and what reads its pictures.

    Attributes:
        workdir: as it was named.
        config: the resolved config.
        group: the prompts.
        seeds: pictures of each prompt, at least 2.
        first_seed: of them; other first seeds, other noise.
    """

    workdir: str
    pipeline: Pipeline
    config: Mapping[str, Any]
    group: PromptGroup
    instruments: Instruments
    seeds: int
    first_seed: int = 0

    @classmethod
    def of(
        cls,
        workdir: epath.PathLike,
        kind: str,
        prompts: int,
        seeds: int,
        split: str = "test",
        pipeline: Pipeline | None = None,
    ) -> "Studied":
        """The model of a workdir.

        Args:
            kind: of the prompts, one of ``PROMPTS`` of `difflax.data.shapes.examples`.
            split: whose combinations they ask for, one of ``COMBINATIONS`` of `difflax.data.shapes.splits`.
            pipeline: of the workdir, where it is loaded already.

        Raises:
            UserError: no workdir, one whose pictures no exact judge reads, or numbers that say nothing.
        """
        choose(PROMPTS, kind, "kind")
        if prompts < 2 or seeds < 2:
            raise UserError(f"prompts={prompts}, seeds={seeds}: bands and coverage need at least 2 of both")
        experiment = read_workdir(find_workdir(workdir))
        protocol = getattr(experiment, "evaluation", None)
        if not hasattr(protocol, "group"):
            raise UserError(
                f"{workdir}: its config.evaluation has no judge that knows the truth: 'shapes' has one"
            )
        protocol = dataclasses.replace(protocol, prompts=prompts, real_images=REAL_IMAGES)
        return cls(
            workdir=str(workdir),
            pipeline=load(workdir) if pipeline is None else pipeline,
            config=dict(experiment.resolved),
            group=protocol.group(experiment.data, kind, f"{kind} prompts", split),
            instruments=Instruments(judge=protocol.judge()),
            seeds=seeds,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a table says of it."""
        return {
            "command": command_line(),
            "checkpoint": f"{self.workdir}, step {self.pipeline.model.step}, averaged parameters",
            "prompts": f"{len(self.group.prompts)}, {self.group.name}",
            "seeds": self.seeds,
        }

    def guided(self, section: Mapping[str, Any]) -> "Studied":
        """The same with another guidance, a section as ``config.guidance``."""
        pipeline = with_guidance(self.pipeline, repr(dict(section)), self.workdir)
        config = {**self.config, "guidance": dict(section)}
        return dataclasses.replace(self, pipeline=pipeline, config=config)

    def first(self, prompts: int) -> "Studied":
        """The same with its first prompts alone."""
        return dataclasses.replace(
            self, group=dataclasses.replace(self.group, prompts=self.group.prompts[:prompts])
        )

    def sweep(
        self, directory: epath.PathLike, scales: Sequence[float], sampler: str | None, num_steps: int | None
    ) -> AblationResult:
        """Measures at guidance scales, and writes the tables; ``None`` is what the run has."""
        result = run_ablation(
            drawing(self.pipeline, sampler, num_steps),
            [self.group],
            scales=scales,
            **self._asked(directory, sampler, num_steps),
        )
        write_tables(result, directory)
        return result

    def compare(
        self, directory: epath.PathLike, arms: Sequence[Arm], sampler: str | None, num_steps: int | None
    ) -> AblationResult:
        """Measures arms of any axes of a sweep, those that ``directory`` lacks; ``None`` is what the run has.

        Raises:
            UserError: an arm that the model cannot have; nothing has been drawn then.
        """
        studio = Studio(
            base=self.pipeline,
            weights=Weights(source=self.workdir),
            open=lambda other: load(other.source, step=other.step, ema_length=other.ema_length),
            of_run=True,
            arguments={"sampler": sampler, "num_steps": num_steps},
        )
        studio.check(arms)
        return run_sweep(
            studio.painter(), [self.group], arms=arms, **self._asked(directory, sampler, num_steps)
        )

    def _asked(self, directory: epath.PathLike, sampler: str | None, num_steps: int | None) -> dict[str, Any]:
        """What all its sweeps are asked."""
        defaults = self.pipeline.defaults
        return {
            "seeds": range(self.first_seed, self.first_seed + self.seeds),
            "provenance": Provenance(
                command=command_line(),
                checkpoint=self.facts["checkpoint"],
                sampler=sampler or type(defaults.sampler).__name__,
                num_steps=num_steps or defaults.num_steps,
                judge="shapes",
                config=self.config,
                fingerprint=self.pipeline.fingerprint(),
            ),
            "directory": directory,
            "instruments": self.instruments,
            "batch_size": self.pipeline.devices.batch_size,
        }


def drawing(pipeline: Pipeline, sampler: str | None, num_steps: int | None) -> Callable[..., np.ndarray]:
    """``(prompts, seeds, guidance scale)`` to pictures in [0, 1]; ``None`` is what the pipeline has."""

    def draw(prompts, seeds, scale):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnconditionalWarning)  # scales with 0 among them mean it
            return pipeline(
                prompts,
                None,
                scale,
                num_steps=num_steps,
                sampler=sampler,
                seed=np.asarray(seeds).tolist(),
            )

    return draw
