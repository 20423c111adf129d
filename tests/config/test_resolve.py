"""A config in part becomes whole; what the command line changes, whatever the file happens to mention."""

import json

import numpy as np
import pytest
from difflax.config import experiment
from difflax.config.experiments import KINDS, parse, resolve
from difflax.config.files import read_config_file
from difflax.config.values import to_json
from difflax.core.types import UserError
from difflax.diffusion.guidance import GuidancePlan
from difflax.diffusion.samplers import DDIM, Heun
from ml_collections import ConfigDict

from tests.runs import ROOT, load_config

STORED = json.loads((ROOT / "tests" / "config" / "stored_configs.json").read_text())
"""``config.json`` as runs of commit ca6f114 wrote it, of every file of ``configs/``: the values that its
hand-built `ConfigDict` had, and no other.
"""
EARLIER = ROOT / "tests" / "config" / "earlier"
"""Those of the files that say something else today, or are gone, as they were then."""

HAND_BUILT = {
    "seed": 0,
    "data": {"name": "shapes", "train": 96, "test": 64, "held_out": 64},
    "text_encoder": {"name": "clip", "path": "clip"},
    "autoencoder": {"name": "cosine_transform", "patch_size": 4, "channels": 3},
    "schedule": {"name": "rectified_flow", "shift": 1.0},
    "prediction": {"name": "x0"},
    "loss": {"name": "denoising", "caption_dropout": 0.1},
    "model": {
        "name": "unet2d_condition",
        "block_out_channels": [16, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
    },
    "optimizer": {"name": "adamw", "learning_rate": 1},
    "ema": {"decay": 0.9},
    "mesh": {"data": -1},
    "training": {"steps": 200, "batch_size": 4},
    "sampler": {"name": "dpmpp_2m", "num_steps": 4},
    "guidance": {"name": "cfg", "scale": 2},
}


def overridden(*overrides, config="shapes.py"):
    """The resolved config of a file with ``key=value`` of the command line."""
    pairs = [tuple(f"config.{override}".split("=", 1)) for override in overrides]
    return read_config_file(str(ROOT / "configs" / config), pairs)


@pytest.mark.parametrize(
    ("override", "config"),
    [
        ("training.log_every=10", "sd15.py"),
        ("training.keep_best=3", "shapes.py"),
        ("model.dtype=bfloat16", "shapes.py"),
        ("optimizer.schedule=linear", "shapes.py"),
        ("optimizer.clip_norm=None", "shapes.py"),
        ("optimizer.clip_norm=3", "shapes.py"),
        ("network_input.time=log_sigma", "shapes.py"),
        ("data.long_captions=0.95", "shapes.py"),
        ("model.mid_block_type=None", "shapes.py"),
        ("model.attention_head_dim=(2, 4)", "shapes.py"),
        ("training.sample_prompts=('a red circle', 'a cross')", "shapes.py"),
        ("training.evaluate_every=100", "shapes.py"),
        ("sampler.midpoint=false", "shapes.py"),
        ("model.vision_config.hidden_act=gelu", "clip.py"),
        ("loss.feature_weight=0.1", "autoencoder.py"),
        ("model.t5=False", "finetune_sd15.py"),
        ("tune.transformer=('to_q',)", "lora_sd15.py"),
    ],
)
def test_what_the_file_does_not_mention_can_be_overridden(override, config):
    key, _, text = override.partition("=")
    made, plain = overridden(override, config=config), overridden(config=config)
    *path, last = key.split(".")
    for name in path:
        made, plain = made[name], plain[name]
    assert made[last] != plain[last]
    assert str(made[last]).removesuffix(".0") in (text, text.capitalize())


@pytest.mark.parametrize(
    "overrides",
    [
        ["guidance.interval={'low': 1, 'high': 3.0}"],
        ["guidance.interval.low=1", "guidance.interval.high=3"],
    ],
)
def test_a_section_that_is_none_is_given_whole_or_by_its_fields(overrides):
    bounds = parse(overridden(*overrides)).guidance.plan.bounds
    assert (bounds.low, bounds.high, bounds.unit) == (1.0, 3.0, "sigma")


def test_sections_inside_of_sections_that_are_none():
    made = parse(
        overridden(
            "guidance.name=perturbation",
            "guidance.weak.perturbation.layers=up_blocks",
            "guidance.within.low=1",
            "guidance.within.high=2",
            "sampler.restart.low=2",
            "sampler.restart.high=4",
            "sampler.schedule.name=cosine",
            "sampler.schedule.offset=0.01",
            "loss.uncertainty.name=learned",
            "loss.uncertainty.features=16",
        )
    )
    assert made.guidance.weak.perturbation.layers == "up_blocks"
    assert made.guidance.plan.within.high == 2
    assert (made.sampler.restart.low, made.sampler.restart.repeats) == (2, 1)
    assert made.sampler.schedule.offset == 0.01
    assert made.loss.uncertainty.features == 16


def test_a_field_of_a_section_without_a_name_asks_for_the_name():
    with pytest.raises(UserError, match=r"config.evaluation.name is missing: choose one of shapes, digits"):
        overridden("evaluation.seeds=3", config="sd15.py")


def test_a_scale_is_a_number_one_a_step_or_a_shape():
    assert parse(overridden("guidance.scale=3")).guidance.plan.scale == 3.0
    steps = parse(overridden("guidance.scale=(1,2)")).guidance.plan
    assert isinstance(steps, GuidancePlan) and steps.scale_over_run.values == (1.0, 2.0)
    shape = parse(overridden("guidance.scale.shape=linear", "guidance.scale.end=4")).guidance.plan
    assert (shape.scale_over_run.shape, shape.scale_over_run.end) == ("linear", 4.0)


def test_a_schedule_of_the_scale_stands_beside_any_guidance():
    made = parse(overridden("guidance.name=apg", "guidance.schedule.name=power_cosine", "guidance.scale=3"))
    assert (made.guidance.plan.scale, made.guidance.plan.schedule.power) == (3.0, 4.0)
    table = parse(overridden("guidance.schedule={'name': 'bands', 'edges': [0], 'scales': [1, 2]}"))
    assert table.guidance.plan.schedule.scales == (1.0, 2.0)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("guidance.schedule={'name': 'linaer'}", "did you mean 'linear'"),
        ("guidance.schedule={'name': 'bands', 'edges': (0, 1), 'scales': (1, 2)}", "needs 3"),
        ("guidance.schedule={'name': 'table', 'log_snr': (1, 0), 'scales': (1, 2)}", "must be increasing"),
        ("guidance.schedule={'name': 'table', 'log_snr': (), 'scales': ()}", "needs 1"),
        ("guidance.schedule={'name': 'table', 'scales': (1,)}", "log_snr is missing"),
        ("guidance.schedule={'name': 'power_cosine', 'power': 0}", "must be positive"),
    ],
)
def test_a_schedule_of_the_scale_that_cannot_be_is_one_line(override, says):
    with pytest.raises(UserError, match=says) as refused:
        parse(overridden(override))
    assert "guidance" in str(refused.value) and "\n" not in str(refused.value)


def test_a_scale_that_is_a_shape_goes_with_no_schedule():
    with pytest.raises(UserError, match="give one of them"):
        parse(overridden("guidance.scale=(1,2)", "guidance.schedule.name=linear"))


class TestAnotherImplementation:
    def test_what_both_have_stays_and_the_rest_goes(self):
        made = overridden("sampler.name=ddim")
        assert "midpoint" not in made.sampler
        assert made.sampler.num_steps == 16  # of the file
        assert isinstance(parse(made).sampler.sampler, DDIM)

    def test_its_own_fields_can_be_set_before_or_after_its_name(self):
        for order in (1, -1):
            overrides = ["sampler.name=heun", "sampler.churn=0.3", "sampler.time_grid.name=karras",
                         "sampler.time_grid.rho=5", "sampler.time_grid.sigma_max=20"][::order]  # fmt: skip
            made = parse(overridden(*overrides)).sampler
            assert isinstance(made.sampler, Heun) and made.sampler.churn == 0.3
            assert (made.time_grid.rho, made.time_grid.sigma_max) == (5.0, 20.0)

    def test_a_value_that_the_file_set_is_kept_where_it_still_has_a_meaning(self):
        made = overridden("optimizer.name=lion", "guidance.name=apg")
        assert (made.optimizer.learning_rate, made.optimizer.b2) == (4e-3, 0.98)
        assert made.guidance.scale == 2.0

    def test_a_default_of_the_old_one_is_no_value_of_the_new_one(self):
        """Classifier-free guidance has 7.5 unless told otherwise, CFG++ 0.6."""
        config = experiment("unet2d_condition", "shapes")
        config.text_encoder.path = "clip"
        made = resolve(config, [("config.guidance.name", "cfg_plus_plus")])
        assert made["guidance"]["scale"] == 0.6

    def test_its_name_alone_can_be_set_in_a_file(self):
        config = load_config("shapes").unlock()
        config.sampler.name = "ddim"
        config.loss.time_sampler = {"name": "uniform"}
        assert isinstance(parse(config).sampler.sampler, DDIM)

    def test_a_field_that_only_the_old_one_has_is_refused_on_the_same_command_line(self):
        with pytest.raises(UserError, match=r"config.sampler \(ddim\) has no key 'midpoint'"):
            overridden("sampler.midpoint=False", "sampler.name=ddim")

    def test_values_of_a_file_for_another_one_are_refused(self):
        config = load_config("shapes").unlock()
        config.schedule.shift = 2.0
        config.schedule.name = "cosine"
        with pytest.raises(UserError, match=r"config.schedule \(cosine\) has no field 'shift'"):
            resolve(config)

    def test_a_value_that_another_one_requires_is_refused(self):
        with pytest.raises(UserError, match=r"config.data \(shapes\) has no field 'path'"):
            resolve({**HAND_BUILT, "data": {"name": "shapes", "path": "pictures"}})

    def test_of_the_network(self):
        made = overridden("model.name=mmdit", "model.num_layers=2", "model.pos_embed_max_size=8")
        assert made.model.num_layers == 2 and "block_out_channels" not in made.model


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainning.steps=3", "config has no key 'trainning', did you mean 'training'"),
        ("training.stebs=3", "config.training has no key 'stebs', did you mean 'steps'"),
        ("sampler.name=dim", "config.sampler.name = 'dim' is unknown, did you mean 'ddim'"),
        ("model.name=unet", "config.model.name = 'unet' is unknown"),
        ("training.steps=many", "config.training.steps = 'many' must be int"),
        ("training.steps=1.5", "config.training.steps = 1.5 must be int"),
        ("training.steps=True", "config.training.steps = True must be int"),
        ("training.accumulate=True", "config.training.accumulate = True must be int"),
        ("ema.warmup=1", "config.ema.warmup = 1 must be bool"),
        ("training.steps.x=1", "holds a value"),
        ("training=3", "it is a section"),
        ("training.profile_steps=20", "config.training.profile_steps = 20 must be a tuple of int"),
        ("training.sample_prompts=a cat", "must be a tuple of str"),
        ("ema.decay=nan", "config.ema.decay = nan must be a finite number"),
        ("ema.decay=inf", "must be a finite number"),
        ("guidance.scale=-inf", "must be a finite number"),
        ("optimizer.schedule=cosin", "config.optimizer.schedule = 'cosin' is unknown, did you mean 'cosine'"),
        ("network_input.time=x", "config.network_input.time = 'x' is unknown"),
        ("model.dtype=int8", "config.model.dtype = 'int8' is unknown"),
        ("model.out_channels=3", "no key 'out_channels'"),
        ("data={'name': 'folder', 'height': 8, 'width': 8}", "config.data.path is missing: the folder"),
        ("data={'name': 'foldr'}", "did you mean 'folder'"),
        ("guidance.corrections=rescale", "it is a section"),
        ("seed=-1", "config.seed = -1"),
    ],
)
def test_what_is_wrong_is_one_line(override, says):
    with pytest.raises(UserError) as refused:
        parse(overridden(override))
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("model", [None, 3, "clip", ()])
def test_a_model_that_is_no_section(model):
    with pytest.raises(UserError, match=r"config has no section 'model': give config.model.name, one of"):
        resolve({"model": model})


def test_numbers_of_numpy_are_numbers():
    training = {"steps": np.int64(300)}
    made = parse({**HAND_BUILT, "training": training, "ema": {"decay": np.float32(0.5)}})
    assert (made.training.steps, made.ema.decay) == (300, 0.5)
    with pytest.raises(UserError, match=r"config.training.steps = 1.5 must be int"):
        parse({**HAND_BUILT, "training": {"steps": np.float32(1.5)}})


def test_infinite_where_the_default_is():
    assert parse(overridden("sampler.name=euler", "sampler.churn_max=3")).sampler.sampler.churn_max == 3.0
    made = overridden("sampler.name=euler")
    assert made.sampler.churn_max == float("inf")
    stored = to_json(resolve(made))
    json.dumps(stored, allow_nan=False)
    assert parse(stored).sampler.sampler.churn_max == float("inf")


@pytest.mark.parametrize("name", STORED)
def test_configs_that_an_earlier_version_stored_mean_the_same(name):
    """The files of ``configs/`` as they were then, all values at their defaults."""
    file, _, argument = name.partition(":")
    folder = EARLIER if (EARLIER / file).exists() else ROOT / "configs"
    today = to_json(resolve(load_config(file.removesuffix(".py"), argument, folder)))
    before = to_json(resolve(STORED[name]))
    assert json.loads(json.dumps(today).replace(f"{ROOT}/", "")) == before


def test_a_config_built_by_hand():
    made = parse(ConfigDict(HAND_BUILT))
    assert made.optimizer.b1 == 0.9 and made.optimizer.learning_rate == 1.0
    assert made.training.log_every == 50
    assert made.model.options["block_out_channels"] == (16, 16)
    assert parse(ConfigDict(HAND_BUILT).lock()).resolved == parse(made.resolved).resolved


@pytest.mark.parametrize("model", KINDS)
def test_experiment_holds_every_field(model):
    """Whatever is left to be given is ml_collections' placeholder, and named where the config is used."""
    config = experiment(model, "digits")
    assert isinstance(config, ConfigDict) and config.training.keep_best == 0
    if model in ("clip", "autoencoder_kl"):
        assert parse(config).name == model
        return
    with pytest.raises(UserError, match=r"config\.(text_encoder|model)\.path is missing"):
        parse(config)
    config["model" if model == "pretrained" else "text_encoder"].path = "somewhere"
    assert parse(config).name == model


def test_experiment_refuses_what_the_kind_of_run_has_not():
    with pytest.raises(UserError, match=r"config has no section 'schedule'"):
        experiment("clip", "shapes", schedule="cosine")
    with pytest.raises(UserError, match=r"config.sampler.name = 'dim' is unknown"):
        experiment("mmdit", "shapes", sampler="dim")


def test_a_file_that_fails_is_one_line(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match=r"broken.py, line 2: ZeroDivisionError: division by zero"):
        read_config_file(str(file))
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match="no function get_config"):
        read_config_file(str(file))
    with pytest.raises(UserError, match="there is no file"):
        read_config_file(str(tmp_path / "nowhere.py"))
