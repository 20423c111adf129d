"""Steps of image-to-image runs, and how far they noise by default: as diffusers' pipelines do."""

import inspect

import pytest
from difflax.diffusion.schedules import ScaledLinear
from difflax.diffusion.time_grids import Leading, sampling_levels
from difflax.diffusion.time_grids.sequences import PARTS, levels_from
from difflax.pretrained.families import FAMILIES

SHARES = [
    (10, 0.75),
    (20, 0.33),
    (50, 0.35),
    (25, 0.75),
    (50, 0.58),
    (28, 0.6),
    (30, 0.3),
    (50, 0.9999),
    (7, 1.0),
]


@pytest.mark.parametrize(("rounds", "counts"), [("down", [7, 6, 17, 18, 28, 16, 9, 49, 7]),
                                                ("up", [8, 7, 18, 19, 29, 17, 9, 50, 7])])  # fmt: skip
def test_steps_of_a_strength(rounds, counts):
    """int(n s) in Stable Diffusion, n - int(n - n s) in Stable Diffusion 3."""
    for (n, strength), count in zip(SHARES, counts, strict=True):
        levels = sampling_levels(ScaledLinear(), Leading(), n)
        assert levels_from(levels, strength, rounds).t.shape[0] - 1 == count, (n, strength)


def test_a_share_of_less_than_a_step_is_none():
    levels = sampling_levels(ScaledLinear(), Leading(), 10)
    with pytest.raises(ValueError, match=r"strength = 0.05 of 10 steps is no step"):
        levels_from(levels, 0.05)


def family(name):
    return next(f for f in FAMILIES.values() if f.pipelines[0].name == name)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("plain", "picture", "mask"),
    [
        ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
        ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
        ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    ],
)
def test_strengths_are_those_of_diffusers_pipelines(plain, picture, mask):
    pytest.importorskip("torch")
    import diffusers

    ours = family(plain).strength
    for name, strength in ((picture, ours.picture), (mask, ours.mask)):
        pipeline = getattr(diffusers, name)
        assert inspect.signature(pipeline.__call__).parameters["strength"].default == strength
        for n, share in [*SHARES, (28, strength)]:
            theirs = _steps_of(pipeline, n, share)
            assert PARTS[ours.rounds](n, share) == theirs, (name, n, share)


def _steps_of(pipeline, n, strength):
    """The steps of a pipeline that has no networks."""
    import types

    import diffusers
    import torch

    scheduler = diffusers.EulerDiscreteScheduler()
    if "3" in pipeline.__name__:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(n)
    this = types.SimpleNamespace(scheduler=scheduler)
    return len(pipeline.get_timesteps(this, n, strength, torch.device("cpu"))[0])
