"""The flags of two stored commands as axes of a sweep: what can be swapped, and what is told that cannot."""

import shlex

import pytest
from absl import flags
from difflax.cli import ablate, evaluate
from difflax.cli import explain_sweeps as sweeps
from difflax.cli.asked import AXES_OF_FLAGS, UNTOUCHED, Asked, clear, differing, settings_of, step_of
from difflax.cli.models import weights_named
from difflax.core.types import UserError
from difflax.evaluation.ablation import explanation as ex
from difflax.runs.axes import SWEPT_AXES

from tests.evaluation.known_sweep import provenance

VALUES = {
    "guidance": "{'name': 'apg', 'momentum': -0.3}",
    "sampler": "heun",
    "num_steps": 7,
    "negative_prompt": "blurred",
    "ema_length": 0.08,
    "dtype": "bfloat16",
    "lora": ["style.safetensors:0.8"],
}

OTHER_MEANING = {
    *("workdir", "pretrained"),  # the axis model
    *("guidance_scales", "sweep", "design", "arms", "design_seed"),  # the arms
    *("prompt", "prompts_file", "prompts", "group", "layout", "seeds"),  # what is asked
    "clip",  # what reads the images
    *("output", "dry_run", "save_images", "trajectories", "bits_per_dimension"),  # no image depends on them
    *("coordinator", "processes", "process"),
}


def asked(*words):
    return Asked(shlex.join(["difflax", *words]))


@pytest.mark.parametrize("command", [ablate, evaluate])
def test_every_flag_is_an_axis_or_said_not_to_be(command):
    values = flags.FlagValues()
    command.define_flags(values, [])
    known = {*AXES_OF_FLAGS, *UNTOUCHED, *OTHER_MEANING}
    assert {name for name in values if not name.startswith("help")} <= known
    assert {*AXES_OF_FLAGS, *UNTOUCHED} <= set(values)


def test_axes_read_what_flags_set():
    assert set(VALUES) == set(AXES_OF_FLAGS)
    for name, value in VALUES.items():
        for axis, setting in AXES_OF_FLAGS[name](value).items():
            assert SWEPT_AXES[axis].read(setting, name) == setting
    assert AXES_OF_FLAGS["guidance"](VALUES["guidance"])["guidance"]["momentum"] == -0.3
    assert AXES_OF_FLAGS["lora"](VALUES["lora"]) == {"lora": "style.safetensors", "lora_scale": 0.8}
    with pytest.raises(UserError, match="2 LoRAs"):
        AXES_OF_FLAGS["lora"](["a.safetensors", "b.safetensors"])


def test_what_is_shared_stays_a_flag_and_the_rest_is_swapped():
    one = asked("ablate", "--pretrained=sd15", "--sampler=heun", "--num_steps=9", "--lora=a.safetensors")
    other = asked("ablate", "--pretrained=sd15", "--sampler=heun", "--dtype=bfloat16", "--variant=fp16")
    names = differing(one, other, list(AXES_OF_FLAGS))
    assert names == ["num_steps", "dtype", "lora"]
    assert settings_of(one, names) == {
        "num_steps": 9,
        "dtype": "float32",
        "lora": "a.safetensors",
        "lora_scale": 1.0,
    }
    assert settings_of(other, names) == {"dtype": "bfloat16", "lora": None, "lora_scale": 1.0}
    assert differing(one, other, UNTOUCHED) == ["variant"]
    clear(one, names)
    assert one.flags.num_steps is None and one.flags.lora == [] and one.flags.sampler == "heun"
    # The precision of a checkpoint is none of a run.
    runs = [asked("evaluate", "--workdir=runs/a", *more) for more in [(), ("--dtype=bfloat16",)]]
    assert differing(*runs, list(AXES_OF_FLAGS)) == []


def test_a_run_that_went_on_is_asked_for_its_step():
    class Model:
        step = 4000

    class Loaded:
        model = Model

    own = asked("evaluate", "--workdir=runs/a", "--ema_length=0.1")
    assert step_of(weights_named(own.flags, Loaded)) == 4000
    assert step_of("stable-diffusion-v1-5/stable-diffusion-v1-5") is None


def sides(first, second, steps):
    """As they are made of two commands and the checkpoints that they name."""

    class Result:
        def __init__(self, step):
            self.provenance = provenance(checkpoint=f"runs/a, step {step}, averaged parameters")
            self.seeds, self.method = (0, 1), {"features": "CLIP"}
            self.arms = [ex.Arm(settings={"guidance.scale": 2.0})]

    both = [asked(*first), asked(*second)]
    results = [Result(step) for step in steps]
    swapped = differing(*both, list(AXES_OF_FLAGS))
    return both, sweeps._sides(results, both, [0, 0], swapped)


def test_the_step_is_a_cause_of_one_run_and_goes_with_another():
    commands = [("evaluate", "--workdir=runs/a"), ("evaluate", "--workdir=runs/a", "--ema_length=0.1")]
    both, (first, second) = sides(*commands, (100, 200))
    assert [cause.name for cause in ex.causes(first, second)] == ["step", "ema"]
    weights = sweeps._weights(both[0], (first, second), None)
    assert (weights.step, weights.ema_length) == (100, None)
    other = ("evaluate", "--workdir=runs/b")
    _, (first, second) = sides(commands[0], other, (100, 200))
    [cause] = ex.causes(first, second)
    assert cause.name == "model" and "200" in cause.second
    swapped = ex.mixed(first, second, [cause], frozenset({0}))
    assert swapped.settings == {"model": "runs/b", "step": 200, "guidance.scale": 2.0}
    # Where nothing of it differs, the weights are those that both were made of, though the run went on.
    both, pair = sides(commands[0], commands[0], (100, 100))
    assert sweeps._weights(both[0], pair, 100).step == 100
