"""What a sweep would cost, before anything is drawn: arms, programs, network evaluations, time.

Evaluations are counted by running each method's sampler and guidance on one latent with a network that does
nothing, so that what a guidance interval skips is not counted. The time is that of one evaluation of a whole
batch, measured where that is cheap, else its FLOPs at the share of the chip's peak that `USED` says.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from difflax.core.chips import chip
from difflax.core.flops import count_flops
from difflax.diffusion.denoisers import WithWeak
from difflax.diffusion.guidance import Guidance
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers.base import Sampler, sample
from difflax.diffusion.schedules import NoiseLevel
from difflax.evaluation.ablation.arms import Arm
from difflax.runs.arms import Call, Studio

CHEAP = 2e12
"""FLOPs of an evaluation that is measured: seconds on two cores."""

USED = 0.4
"""The share of a chip's peak that networks reach."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a sweep would cost.

    Attributes:
        arms, images: to be drawn.
        programs: structurally different methods, each compiled once.
        evaluations: of a network, for one image each.
        flops: of all evaluations.
        seconds: ``None`` where nothing is known of the machine.
        how: the time was found, in words.
    """

    arms: int
    images: int
    programs: int
    evaluations: int
    flops: float
    seconds: float | None
    how: str

    def __str__(self) -> str:
        took = "unknown" if self.seconds is None else duration(self.seconds)
        return "\n".join(
            [
                f"arms: {self.arms:,} ({self.images:,} images)",
                f"programs to compile: {self.programs:,}",
                f"network evaluations: {self.evaluations:,} ({self.flops / 1e12:,.3g} TFLOPs)",
                f"estimated time: {took} ({self.how}), beside compiling and measuring",
            ]
        )


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def cost(studio: Studio, arms: Sequence[Arm], images: int) -> Cost:
    """What drawing ``images`` images in each of the arms would cost.

    Raises:
        UserError: an arm that the model cannot have.
    """
    families: dict[str, list[Arm]] = {}
    for arm in arms:
        families.setdefault(studio.family(arm), []).append(arm)
    programs, evaluations, counted = set(), 0, {}
    batch = studio.base.devices.batch_size
    for members in families.values():
        call = studio.call(members[0])
        weights = studio.weights_of(members[0])
        each = "guidance.scale" in members[0].settings  # of each image, and not of all
        programs.add((weights.source, weights.dtype, each, structure(call)))
        settings = {name: v for name, v in members[0].settings.items() if name != "guidance.scale"}
        key = Arm(settings=settings).key
        if key not in counted:
            counted[key] = evaluations_of(call)
        drawn = -(-images * len(members) // batch) * batch
        evaluations += counted[key] * drawn
    flops, seconds, how = of_one(studio, batch)
    return Cost(
        arms=len(arms),
        images=images * len(arms),
        programs=len(programs),
        evaluations=evaluations,
        flops=evaluations * flops,
        seconds=None if seconds is None else evaluations * seconds,
        how=how,
    )


def structure(call: Call) -> Any:
    """What two calls have in common that one program serves."""
    arrays = (call.levels, call.guidance)
    weak = call.model.weak
    return (
        call.sampler,
        call.shape,
        jax.tree.structure(arrays),
        tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(arrays)),
        None if weak is None else (weak.perturbation, id(weak.network), weak.params is None),
    )


class _Counter:
    """Counts what a program that is running asks of it."""

    def __init__(self):
        self.rows = 0

    def add(self, rows: int) -> None:
        self.rows += rows


_COUNTER = _Counter()


def _nothing(x: jax.Array, level: NoiseLevel, conditioning: Any) -> Prediction:
    jax.debug.callback(functools.partial(_COUNTER.add, len(x)))
    return Prediction(x0=jnp.zeros_like(x), eps=jnp.zeros_like(x), variance=jnp.zeros_like(x))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _walk(
    sampler: Sampler, shape: tuple[int, ...], levels: NoiseLevel, guidance: Guidance, conditioning: Any
) -> jax.Array:
    denoise = guidance.wrap(WithWeak(_nothing, _nothing))
    keys = jax.random.split(jax.random.key(0), 1)
    return sample(denoise, sampler, levels, jnp.zeros((1, *shape)), keys, conditioning=conditioning)


def evaluations_of(call: Call) -> int:
    """How often a network is evaluated for one image: each prompt of a guidance is one evaluation."""
    null = call.model.null
    conditioning = call.guidance.arrange([null] * call.guidance.prompts, null)
    _COUNTER.rows = 0
    jax.block_until_ready(_walk(call.sampler, call.shape, call.levels, call.guidance, conditioning))
    jax.effects_barrier()
    return _COUNTER.rows


def of_one(studio: Studio, batch: int) -> tuple[float, float | None, str]:
    """FLOPs and seconds of one evaluation for one image, and how the seconds were found."""
    call = studio.call(Arm(settings={}))
    model = studio.base.devices.of(call.model.params).place(call.model)
    rows = 2 * batch
    conditioning = jax.tree.map(lambda a: jnp.broadcast_to(a, (rows, *a.shape[1:])), model.null)

    @jax.jit
    def evaluate(params: Any, x: jax.Array, told: Any) -> jax.Array:
        return model.network.module(params)(x, jnp.full(rows, 500.0), told)

    arguments = (model.params, jnp.zeros((rows, *call.shape)), conditioning)
    traced = evaluate.trace(*arguments)
    flops = count_flops(traced.jaxpr)
    known = chip(jax.devices()[0].device_kind)
    if flops > CHEAP and known is None:
        return flops / rows, None, f"{flops / rows / 1e9:,.3g} GFLOPs an evaluation; the chip is not known"
    if flops > 100 * CHEAP:
        seconds = flops / (known.flops * USED * jax.device_count())
        return flops / rows, seconds / rows, f"{USED:.0%} of the chips' peak"
    jax.block_until_ready(evaluate(*arguments))
    took = math.inf
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(evaluate(*arguments))
        took = min(took, time.perf_counter() - start)
    return flops / rows, took / rows, f"one evaluation of {rows} images took {took:.3g} s"
