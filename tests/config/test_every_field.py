"""Every field of every section does something: another value gives another outcome, or is refused by a line.

The fields are those of the schema, so a new one fails here until it has its line in `CASES`.
"""

import collections
import dataclasses
import json
import re
import typing

import jax
import numpy as np
import pytest
from difflax.config import experiment
from difflax.config.checks import check
from difflax.config.experiments import parse, resolve
from difflax.core.descriptions import choices_of
from difflax.core.types import UserError
from PIL import Image

from tests.config import outcomes
from tests.config.fields import every_field
from tests.data import stores
from tests.fixtures import make_stable_diffusion, make_stable_diffusion_3
from tests.runs import random_clip

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("every_field")

FIELDS = {found.key: found for found in every_field()}


@dataclasses.dataclass(frozen=True)
class Case:
    """A value of a field, as on the command line.

    Attributes:
        text: the value; ``{clip}``, ``{sd15}`` and other names of folders in braces.
        base: overrides under which it matters, beside the names of the implementations on the way.
        refused: a part of the line with which it is refused.
        outcome: what it changes; ``None``: that of the section.
    """

    text: str
    base: tuple[str, ...] = ()
    refused: str = ""
    outcome: object = None


def case(text, *base, refused="", outcome=None):
    return Case(text, base, refused, outcome)


def below(prefix, *base, outcome=None, **cases):
    """Cases of a section's fields, with what they have in common."""
    made = {}
    for name, given in cases.items():
        given = given if isinstance(given, Case) else Case(str(given))
        made[f"{prefix}.{name}" if prefix else name] = dataclasses.replace(
            given, base=(*base, *given.base), outcome=given.outcome or outcome
        )
    return made


FLOW = {"tokens": 400, "base_tokens": 100, "max_tokens": 2000, "base_mu": 0.7, "max_mu": 2}


def schedules(section, outcome, *base):
    """The schedules' fields, which also stand in the sampler's section."""
    table = ("table=(0.1, 0.2, 0.3)",)
    alphas = ("table=(0.9, 0.5, 0.1)",)
    betas = {"beta_start": 0.0005, "beta_end": 0.05, "num_timesteps": 500, "zero_terminal_snr": True}
    rows = {
        "linear": betas,
        "scaled_linear": betas,
        "cosine": {"offset": 0.1, "max_beta": 0.01, "num_timesteps": 10, "zero_terminal_snr": True},
        "betas": {"table": case("(0.1, 0.3, 0.5)"), "zero_terminal_snr": case("True")},
        "alphas_cumprod": {"table": case("(0.8, 0.4, 0.2)"), "zero_terminal_snr": case("True")},
        "shifted_cosine": {"resolution": 512, "reference": 32},
        "sigmoid": {"start": -2, "end": 2, "temperature": 0.5},
        "vp_sde": {"beta_min": 0.5, "beta_max": 10},
        "ve": {"sigma_min": 0.02, "sigma_max": 20},
        "edm": {"sigma_max": 40},
        "rectified_flow": {"shift": 3},
        "exponential_flow": {"mu": 1},
        "resolution_flow": FLOW,
        "laplace": {"mean": 1, "scale": 1},
        "cauchy": {"mean": 1, "scale": 2},
    }
    needed = {"betas": table, "alphas_cumprod": alphas}
    made = {}
    for name, cases in rows.items():
        own = [f"{section}.{override}" for override in needed.get(name, ())]
        made |= below(f"{section}.{name}", *base, *own, outcome=outcome, **cases)
    return made


ENDS = {"sigma_min": 0.1, "sigma_max": 10}
GRID = ("sampler.time_grid.name=even", "sampler.time_grid.t_max=0.9")
SPAN = ("sampler.time_grid.sigma_max=20",)
SDE = {"eta": 0.5}
CHURN = {
    "churn": 0.3,
    "churn_min": case("1", "sampler.churn=0.3"),
    "churn_max": case("1", "sampler.churn=0.3"),
    "churn_noise": case("1.5", "sampler.churn=0.3"),
}
SHAPE = {
    "shape": case("linear", "guidance.scale.start=1"),
    "start": case("2", "guidance.scale.shape=linear"),
    "end": case("3", "guidance.scale.shape=linear"),
}
TABLE = ("guidance.schedule.log_snr=(-4, 4)", "guidance.schedule.scales=(1, 5)")
BANDS = ("guidance.schedule.edges=(0,)", "guidance.schedule.scales=(1, 5)")
BENT = ("guidance.weak.perturbation.layers=down_blocks",)
OPTIMIZER = {
    "learning_rate": 0.1,
    "warmup_steps": 3,
    "schedule": "linear",
    "final_fraction": 0.5,
    "weight_decay": 0.3,
    "clip_norm": "None",
}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 0.001,
}
ADDED = (
    "model.addition_embed_type=text_time",
    "model.addition_time_embed_dim=2",
    "model.projection_class_embeddings_input_dim=18",
)
POOLED = ("model.class_embed_type=projection", "model.projection_class_embeddings_input_dim=6")
PICTURES = ("data.path={pictures}", "data.height=8", "data.width=8")
SIZE = ("data.height=8", "data.width=8")
TFDS = ("data.builder={tfds}", "data.caption=text", *SIZE)
TARS, FILES = ("data.path={tars}", *SIZE), ("data.path={parquets}", *SIZE)
HUB = (*FILES, "data.data_dir={hub}")
IMAGES = {
    "height": 4,
    "width": 4,
    "crop": "random",
    "caption": "alt",
    "shuffle_tags": True,
    "keep_tags": Case("1", base=("data.shuffle_tags=True",)),
    "flip": 1.0,
    "background": "(9, 200, 0)",
    "buckets": "((16, 8),)",
    "alpha_mask": True,
    "score_key": "looks",
}
FOLDER = {**IMAGES, "path": "{others}", "repeats": Case("True", base=("data.path={kohya}",))}
ONE = "{'name': 'folder', 'path': '{pictures}', 'height': 8, 'width': 8}"
OTHER = ONE.replace("pictures", "others")
CLASS = ("data.class_prompt=a dog", "data.class_path={others}")
FINE = ("model.path={sd15}", "model.variant=fp16", "model.dtype=float32")
FINE3 = ("model.path={sd3}", "model.variant=fp16", "model.dtype=float32")
RUNS = (*FINE, "data.path={captioned}", "data.height=32", "data.width=32", "training.batch_size=1")
MASKS = ("data.name=folder", *PICTURES, "data.alpha_mask=True")
FEW_PROMPTS = ("evaluation.name=shapes", "evaluation.prompts=2", "evaluation.real_images=2")
CASES = {
    "seed": case("1", outcome=outcomes.first_batch),
    **below("data", outcome=outcomes.data, name=case("digits", "autoencoder.channels=1")),
    **below("data.shapes", outcome=outcomes.data, train=32, test=8, held_out=8, size=64, long_captions=0.0,
            one_object=True, data_seed=1),
    **below("data.digits", data_dir=case("{empty}", outcome=outcomes.data_folder)),
    **below("data.tfds", *TFDS, outcome=outcomes.data, **IMAGES, builder="nowhere", channels=1,
            image_key="picture", data_dir=case("{empty}", "data.builder=difflax_digits")),
    **below("data.folder", *PICTURES, outcome=outcomes.data, **FOLDER),
    **below("data.image_folder", *PICTURES, outcome=outcomes.data, **FOLDER),
    **below("data.webdataset", *TARS, outcome=outcomes.data, **IMAGES, path="{other_tars}",
            data_dir=case("{empty}", outcome=outcomes.data_folder)),
    **below("data.parquet", *FILES, outcome=outcomes.data, **IMAGES, path="{other_parquets}",
            image_key="picture", data_dir=case("{empty}", outcome=outcomes.data_folder)),
    **below("data.huggingface", *HUB, outcome=outcomes.data, **IMAGES, path="{other_parquets}",
            config_name="other", revision="main", image_key="picture",
            data_dir=case("{empty}", outcome=outcomes.data_folder)),
    **below("data.mixture", outcome=outcomes.data, sources=case(f"[{OTHER}]", f"data.sources=[{ONE}]"),
            weights=case("(1, 3)", f"data.sources=[{ONE}, {OTHER}]")),
    **below("data.subject", *PICTURES, "data.prompts=('a photo',)", outcome=outcomes.data, path="{others}",
            prompts="('a photo', 'a picture')", height=4, width=4, flip=1.0,
            class_prompt=case("a cat", *CLASS), class_path=case("{pictures}", *CLASS),
            class_images=case("1", *CLASS), prior_weight=case("0.5", *CLASS)),
    "optimizer.name": case("lion", outcome=outcomes.optimizer),
    **below("optimizer.adamw", outcome=outcomes.optimizer, **OPTIMIZER, b1=0.5, b2=0.5, eps=0.1,
            moments="bfloat16"),
    **below("optimizer.adafactor", outcome=outcomes.optimizer, **OPTIMIZER, decay_rate=0.5,
            factored_from=256, momentum=0.9, moments=case("bfloat16", "optimizer.momentum=0.9")),
    **below("optimizer.lion", outcome=outcomes.optimizer, **OPTIMIZER, b1=0.5, b2=0.5, moments="bfloat16"),
    **below("optimizer.muon", outcome=outcomes.optimizer, **OPTIMIZER, beta=0.5, rms=0.5, b1=0.5, b2=0.5,
            moments="bfloat16"),
    **below("ema", outcome=outcomes.ema, decay=case("0.5", "ema.warmup=False"), warmup=False),
    **below("ema", outcome=outcomes.snapshots, profiles="(0.05, 0.1)",
            snapshot_every=case("2", "ema.profiles=(0.05,)")),
    **below("mesh", outcome=outcomes.mesh, data=2, fsdp=2, context=2, tensor=2,
            rules="(('other/kernel$', ('tensor', None)),)"),
    **below("training", outcome=outcomes.loop, steps=5, batch_size=4, accumulate=2, log_every=1,
            checkpoint_every=2, keep_checkpoints=case("1", "training.checkpoint_every=1"),
            keep_every=case("2", "training.checkpoint_every=1"),
            keep_best=case("2", "training.checkpoint_every=1", "training.log_every=1"),
            best_metric=case("learning", "training.checkpoint_every=1", "training.log_every=1",
                             "training.keep_best=2", "training.keep_checkpoints=1"),
            best_is=case("highest", "training.checkpoint_every=1", "training.log_every=1",
                         "training.keep_best=1", "training.keep_checkpoints=1"),
            max_failed_saves=case("1", "training.checkpoint_every=1", outcome=outcomes.loop_without_disk),
            max_skipped_in_a_row=case("1", "training.steps=8", "training.log_every=1",
                                      outcome=outcomes.loop_of_broken_data),
            max_roll_backs=case("0", "training.steps=8", "training.log_every=1",
                                "training.max_skipped_in_a_row=1", outcome=outcomes.loop_of_broken_data),
            max_bad_examples=case("0.5", "training.batch_size=16", "data.name=folder", "data.path={faulty}",
                                  "data.height=8", "data.width=8", outcome=outcomes.first_batch),
            profile_steps="(1, 2)", record_order=True,
            sample_every=case("2", outcome=outcomes.pictures_while_training),
            sample_prompts=case("('a red circle',)", outcome=outcomes.pictures_while_training),
            evaluate_every=case("2", *FEW_PROMPTS, outcome=outcomes.measured_while_training),
            evaluate_prompts=case("1", *FEW_PROMPTS, outcome=outcomes.measured_while_training)),
    **below("text_encoder.clip", outcome=outcomes.text_states, path="nowhere", layer=-2, final_norm=False),
    "autoencoder.name": case("patchify", outcome=outcomes.latents),
    "autoencoder.identity.channels": case("1", refused="config.autoencoder.channels = 1, but the images"),
    **below("autoencoder.patchify", outcome=outcomes.latents, patch_size=4,
            channels=case("1", refused="config.autoencoder.channels = 1")),
    **below("autoencoder.cosine_transform", outcome=outcomes.latents, patch_size=2, whitening=0.5,
            channels=case("1", refused="config.autoencoder.channels = 1")),
    "autoencoder.autoencoder_kl.path": case("{root}/configs/autoencoders/sd3",
                                            "autoencoder.path={root}/configs/autoencoders/sd15",
                                            outcome=outcomes.latents),
    "schedule.name": case("cosine", outcome=outcomes.schedule),
    **schedules("schedule", outcomes.schedule),
    "prediction.name": case("v", outcome=outcomes.prediction),
    "prediction.edm.sigma_data": case("1", outcome=outcomes.prediction),
    **below("network_input", "schedule.name=cosine", outcome=outcomes.network_input, time="sigma",
            time_scale=10, time_offset=-1, sigma_data=0.5),
    **below("loss.denoising", outcome=outcomes.loss, caption_dropout=1.0, masked=case("True", *MASKS)),
    "loss.denoising.vlb_weight": case("0.001", outcome=outcomes.training_program),
    **below("loss.denoising.weighting", outcome=outcomes.loss, name="p2"),
    "loss.denoising.weighting.constant.loss_space": case("epsilon", outcome=outcomes.loss),
    "loss.denoising.weighting.min_snr.gamma": case("0.5", outcome=outcomes.loss),
    "loss.denoising.weighting.soft_min_snr.gamma": case("0.5", outcome=outcomes.loss),
    **below("loss.denoising.weighting.p2", outcome=outcomes.loss, gamma=0.5, k=2),
    "loss.denoising.weighting.edm.sigma_data": case("1", outcome=outcomes.loss),
    **below("loss.denoising.weighting.sigmoid", outcome=outcomes.loss, bias=0, per="t"),
    "loss.denoising.weighting.flow.scheme": case("sigma_sqrt", outcome=outcomes.loss),
    "loss.denoising.penalty.name": case("huber", "loss.penalty.name=pseudo_huber", outcome=outcomes.loss),
    "loss.denoising.penalty.huber.delta": case("0.1", outcome=outcomes.loss),
    "loss.denoising.penalty.pseudo_huber.delta": case("1", outcome=outcomes.loss),
    "loss.denoising.noise.name": case("paired", outcome=outcomes.loss),
    "loss.denoising.noise.offset.strength": case("0.5", outcome=outcomes.loss),
    "loss.denoising.uncertainty.name": case("learned", outcome=outcomes.loss),
    "loss.denoising.uncertainty.learned.features": case("16", outcome=outcomes.loss),
    "loss.denoising.time_sampler.name": case("mode", outcome=outcomes.loss),
    **below("loss.denoising.time_sampler.uniform", outcome=outcomes.loss, stratified=True, timesteps=4),
    **below("loss.denoising.time_sampler.stratified", outcome=outcomes.loss, stratified=False, timesteps=4),
    **below("loss.denoising.time_sampler.logit_normal", outcome=outcomes.loss, mean=1, std=2,
            stratified=True),
    **below("loss.denoising.time_sampler.mode", outcome=outcomes.loss, scale=0.5, stratified=True),
    "loss.denoising.time_sampler.cosmap.stratified": case("True", outcome=outcomes.loss),
    **below("loss.denoising.time_sampler.log_normal_sigma", outcome=outcomes.loss, mean=1, std=2,
            stratified=True),
    **below("loss.denoising.time_sampler.running_loss", "loss.time_sampler.bins=2", outcome=outcomes.loss,
            stratified=True, bins=3, decay=0.1, floor=0.5,
            timesteps=case("4", refused="running_loss has bins, and no timesteps")),
    "model.name": case("mmdit", outcome=outcomes.training_program),
    **below("model.unet2d_condition", outcome=outcomes.training_program,
            sample_size=case("17", refused="is not the latent's"),
            center_input_sample=True, flip_sin_to_cos=False, freq_shift=1,
            down_block_types="('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D')", mid_block_type="None",
            up_block_types="('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D')", only_cross_attention=True,
            block_out_channels="(8, 8)", layers_per_block=2, downsample_padding=0, mid_block_scale_factor=2,
            dropout=0.5, act_fn="gelu", norm_num_groups=2, norm_eps=0.001, cross_attention_dim=10,
            transformer_layers_per_block=2, reverse_transformer_layers_per_block="(1, 2)",
            attention_head_dim=4, use_linear_projection=True,
            upcast_attention=case("True", "model.dtype=bfloat16"), resnet_time_scale_shift="scale_shift",
            class_embed_type=case("projection", POOLED[1]),
            num_class_embeds=case("5", refused="asks for class labels"),
            addition_embed_type=case("text_time", *ADDED[1:]),
            addition_time_embed_dim=case("1", *ADDED),
            projection_class_embeddings_input_dim=case("8", *POOLED), time_embedding_dim=20,
            time_embedding_act_fn="silu", conv_in_kernel=1, conv_out_kernel=1, dtype="bfloat16", remat="full",
            scan_layers=case("True", "model.transformer_layers_per_block=2"), attention_implementation="xla"),
    **below("model.mmdit", outcome=outcomes.training_program, sample_size=16, patch_size=1, num_layers=3,
            attention_head_dim=4, num_attention_heads=1, joint_attention_dim=10,
            caption_projection_dim=case("17", refused="must be the width"), pooled_projection_dim=7,
            pos_embed_max_size=32, dual_attention_layers="(0,)", qk_norm="rms_norm", dtype="bfloat16",
            remat="full", scan_layers=case("True", "model.num_layers=4"), attention_implementation="xla"),
    "sampler.name": case("ddpm", outcome=outcomes.image_of_sampler),
    **below("sampler", outcome=outcomes.levels, num_steps=5, variance_exploding=case("True", *GRID),
            final_t=0.05),
    "sampler.ddpm.variance": case("large", outcome=outcomes.image_of_sampler),
    **below("sampler.ddim", outcome=outcomes.image_of_sampler, **SDE),
    **below("sampler.euler", outcome=outcomes.image_of_sampler, **CHURN),
    **below("sampler.euler_ancestral", outcome=outcomes.image_of_sampler, **SDE),
    **below("sampler.heun", outcome=outcomes.image_of_sampler, **CHURN),
    **below("sampler.dpm2", outcome=outcomes.image_of_sampler, **SDE),
    **below("sampler.dpm2_ancestral", outcome=outcomes.image_of_sampler, **SDE),
    **below("sampler.dpmpp_2s", outcome=outcomes.image_of_sampler, **SDE, fraction=0.3),
    **below("sampler.dpmpp_sde", outcome=outcomes.image_of_sampler, **SDE, fraction=0.3),
    **below("sampler.dpmpp_2m", outcome=outcomes.image_of_sampler, **SDE, midpoint=False),
    **below("sampler.dpmpp_2m_sde", outcome=outcomes.image_of_sampler, **SDE, midpoint=False),
    **below("sampler.dpmpp_3m", outcome=outcomes.image_of_sampler, **SDE, midpoint=True, published=True),
    **below("sampler.dpmpp_3m_sde", outcome=outcomes.image_of_sampler, **SDE, midpoint=True, published=True),
    **below("sampler.unipc", outcome=outcomes.image_of_sampler, order=3, variant="bh1", corrector=False),
    **below("sampler.dpmpp_singlestep", outcome=outcomes.image_of_sampler, **SDE, order=3, midpoint=False),
    **below("sampler.sa_solver", outcome=outcomes.image_of_sampler, predictor_order=1, corrector_order=1,
            tau=0.5, published=True),
    **below("sampler.tcd", outcome=outcomes.image_of_sampler, gamma=0.8),
    **below("sampler.plms", outcome=outcomes.image_of_sampler, extrapolates="v", reaches_data=True),
    **below("sampler.pndm", outcome=outcomes.image_of_sampler, extrapolates="v", reaches_data=True),
    "sampler.deis.order": case("2", outcome=outcomes.image_of_sampler),
    "sampler.lms.order": case("2", outcome=outcomes.image_of_sampler),
    **below("sampler.adaptive", outcome=outcomes.image_of_sampler, rtol=0.1, atol=0.1, max_attempts=1),
    **below("sampler.lcm", outcome=outcomes.image_of_sampler, boundary=False, sigma_data=50,
            timestep_scaling=0.1, num_timesteps=10),
    "sampler.time_grid.name": case("quadratic", outcome=outcomes.levels),
    "sampler.time_grid.trailing.num_timesteps": case("21", outcome=outcomes.levels),
    **below("sampler.time_grid.leading", outcome=outcomes.levels, num_timesteps=21, steps_offset=1,
            endpoint=False),
    **below("sampler.time_grid.linspace", outcome=outcomes.levels, num_timesteps=21,
            rounded=case("False", "schedule.name=scaled_linear", "prediction.name=epsilon",
                         "sampler.num_steps=7"), endpoint=False),
    **below("sampler.time_grid.distilled", outcome=outcomes.levels, num_timesteps=990, distilled_steps=33),
    "sampler.time_grid.even.t_max": case("0.5", outcome=outcomes.levels),
    "sampler.time_grid.quadratic.t_max": case("0.5", outcome=outcomes.levels),
    **below("sampler.time_grid.uniform_log_snr", *SPAN, outcome=outcomes.levels, **ENDS),
    **below("sampler.time_grid.exponential", *SPAN, outcome=outcomes.levels, **ENDS),
    **below("sampler.time_grid.karras", *SPAN, outcome=outcomes.levels, **ENDS, rho=3),
    **below("sampler.time_grid.beta", *SPAN, outcome=outcomes.levels, a=0.9, b=0.9, over="sigma",
            **{end: case(str(value), "sampler.time_grid.over=sigma") for end, value in ENDS.items()}),
    "sampler.time_grid.align_your_steps.model": case("sdxl", outcome=outcomes.levels),
    "sampler.time_grid.flow_shift.shift": case("2", outcome=outcomes.levels),
    **below("sampler.time_grid.dynamic_flow_shift", outcome=outcomes.levels, **FLOW),
    **below("sampler.time_grid.checkpoint_flow", outcome=outcomes.levels, shift=2, num_timesteps=50),
    "sampler.schedule.name": case("sigmoid", "sampler.schedule.name=cosine", *GRID, outcome=outcomes.levels),
    **schedules("sampler.schedule", outcomes.levels, *GRID),
    **below("sampler.restart", "sampler.restart.low=2", "sampler.restart.high=5", outcome=outcomes.levels,
            low=3, high=4, repeats=2),
    **below("sampler.repaint", outcome=outcomes.repainted, jump=3,
            repeats=case("2", "sampler.repaint.jump=3")),
    "guidance.name": case("cfg_zero_star", outcome=outcomes.guided),
    "guidance.corrections": case("[{'name': 'rescale'}]", outcome=outcomes.guided),
    **below("guidance.cfg", outcome=outcomes.guided, scale=3),
    **below("guidance.cfg.scale", outcome=outcomes.guided, **SHAPE),
    **below("guidance.cfg_plus_plus", outcome=outcomes.guided, scale=3),
    **below("guidance.cfg_plus_plus.scale", outcome=outcomes.guided, **SHAPE),
    **below("guidance.apg", outcome=outcomes.guided, scale=3, momentum=0.5, norm_threshold=0.01,
            parallel_weight=0.5),
    **below("guidance.apg.scale", outcome=outcomes.guided, **SHAPE),
    **below("guidance.cfg_zero_star", outcome=outcomes.guided, scale=3, zero_above=0.1,
            zero_steps=6),
    **below("guidance.cfg_zero_star.scale", outcome=outcomes.guided, **SHAPE),
    **below("guidance.frequency_decoupled", outcome=outcomes.guided, low_scale=1, high_scale=3, blur=0.5),
    "guidance.composed.weights": case("(2, 3)", "guidance.weights=(1, 2)", outcome=outcomes.guided),
    **below("guidance.two_condition", outcome=outcomes.guided, text_scale=3, image_scale=3),
    **below("guidance.autoguidance", "guidance.weak.step=1", outcome=outcomes.guided, scale=3),
    **below("guidance.autoguidance.scale", "guidance.weak.step=1", outcome=outcomes.guided, **SHAPE),
    **below("guidance.perturbation", *BENT, outcome=outcomes.guided, scale=3, perturbation_scale=1,
            classifier_free=False),
    **below("guidance.perturbation.scale", *BENT, outcome=outcomes.guided, **SHAPE),
    **below("guidance.perturbation.within", *BENT, "guidance.within.low=0", "guidance.within.high=0.5",
            outcome=outcomes.guided, low=0.2, high=5, unit="step"),
    **below("guidance.interval", "guidance.interval.low=0", "guidance.interval.high=0.5",
            outcome=outcomes.guided, low=0.2, high=5, unit="step"),
    "guidance.schedule.name": case("cosine", "guidance.schedule.name=linear", outcome=outcomes.guided),
    **below("guidance.schedule.linear", outcome=outcomes.guided, falling=True, floor=4),
    **below("guidance.schedule.cosine", outcome=outcomes.guided, falling=True, floor=4),
    "guidance.schedule.power_cosine.power": case("0.5", outcome=outcomes.guided),
    **below("guidance.schedule.table", *TABLE, outcome=outcomes.guided, log_snr="(-1, 2)", scales="(3, 5)"),
    **below("guidance.schedule.bands", *BANDS, outcome=outcomes.guided, edges="(2,)", scales="(3, 5)"),
    **below("guidance.weak", "guidance.name=autoguidance", "guidance.weak.step=3",
            outcome=outcomes.weak_model, workdir="nowhere", step=4, ema_length=0.08),
    **below("guidance.weak.perturbation", "guidance.name=perturbation", *BENT, outcome=outcomes.perturbed,
            kind="skip", layers="mid_block", blur=case("2", "guidance.weak.perturbation.kind=blur")),
    "evaluation.name": case("digits", "evaluation.name=shapes", outcome=outcomes.evaluation),
    **below("evaluation.shapes", *FEW_PROMPTS[1:], outcome=outcomes.evaluation, prompts=3, seeds=1,
            real_images=4),
    "evaluation.digits.seeds": case("1", "data.name=digits", "autoencoder.channels=1",
                                    outcome=outcomes.evaluation),
    **below("validation", "data.test=10", "training.batch_size=4", outcome=outcomes.validated, every=2,
            **{name: case(value, "validation.every=1") for name, value in {
                "times": "(0.25, 0.75)", "every_time": "True", "examples": "8", "loss_space": "epsilon",
                "seed": "1"}.items()}),
    **below("tokenizer", outcome=outcomes.tokens, vocab_size=530, max_length=12),
    **below("model.clip.text_config", outcome=outcomes.clip, **TOWER),
    **below("model.clip.vision_config", outcome=outcomes.clip, **TOWER, image_size=16, patch_size=8),
    **below("model.clip", outcome=outcomes.clip, projection_dim=6, logit_scale_init_value=1.0),
    **below("loss.contrastive", outcome=outcomes.clip, reconstruction=0.1),
    **below("model.autoencoder_kl", outcome=outcomes.autoencoder_loss, block_out_channels="(4, 4, 4)",
            layers_per_block=2, act_fn="gelu", latent_channels=3, norm_num_groups=1, use_quant_conv=False,
            use_post_quant_conv=False, mid_block_add_attention=False),
    **below("loss.autoencoding", outcome=outcomes.autoencoder_loss, kl_weight=0.1,
            feature_weight=case("0.1", "loss.features={clip}", "loss.feature_weight=0.2"),
            features=case("{clip}", refused="feature_weight and features go together")),
    **below("model.pretrained", *FINE, outcome=outcomes.checkpoint_program,
            path=case("nowhere", outcome=outcomes.checkpoint_asked_for),
            variant=case("''", outcome=outcomes.checkpoint_asked_for),
            revision=case("main", outcome=outcomes.checkpoint_asked_for),
            config=case("somewhere", outcome=outcomes.checkpoint_asked_for),
            dtype="bfloat16", vae_dtype=case("bfloat16", *FINE3), remat="full",
            scan_layers=case("True", *FINE3),
            copy=case("False", *RUNS, outcome=outcomes.finetuning),
            t5=case("False", *FINE3), t5_length=case("9", *FINE3),
            time_shift=case("7", *FINE3, "data.height=32", "data.width=32", outcome=outcomes.flow_times)),
    "tune.name": case("lora", *FINE, outcome=outcomes.tuned),
    "tune.full.text_encoder": case("True", *FINE, outcome=outcomes.tuned),
    **below("tune.lora", *FINE, outcome=outcomes.tuned, rank=2, alpha=8, unet="('to_q',)",
            transformer=case("('attn.to_q',)", *FINE3), text_encoder="('q_proj',)"),
    **below("tune.textual_inversion", *FINE, "tune.token=<toy>", "tune.initializer=a", outcome=outcomes.tuned,
            token="<dog>", initializer="cat", vectors=2),
    **below("cache", *RUNS, outcome=outcomes.finetuning, latents=True, text=True),
}  # fmt: skip
"""A value of every field, by its key."""


def start(model):
    """A small config of the kind of run."""
    if model == "clip":
        config = experiment("clip", "shapes")
        tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        config.model.text_config.update(tower)
        config.model.vision_config.update(tower, image_size=32, patch_size=16)
    elif model == "autoencoder_kl":
        config = experiment("autoencoder_kl", "shapes")
        config.model.update(block_out_channels=(4, 8), norm_num_groups=2)
    elif model == "pretrained":
        config = experiment("pretrained", "folder")
        config.data.update(path="{pictures}", height=8, width=8)
        config.model.path = "{sd15}"
        config.mesh.data = 1
    else:
        config = experiment(model, "shapes", prediction="x0", sampler="ddim")
        config.text_encoder.path = "{clip}"
        config.sampler.num_steps = 10
        if model == "unet2d_condition":
            config.model.update(
                block_out_channels=(8, 16),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=1,
                attention_head_dim=2,
                cross_attention_dim=32,
                norm_num_groups=4,
            )
        else:
            config.model.update(num_layers=2, attention_head_dim=8, num_attention_heads=2,
                                joint_attention_dim=6, pooled_projection_dim=5, sample_size=32)  # fmt: skip
    if config.data.name == "shapes":
        config.data.update(train=24, test=6, held_out=6)
    config.training.update(steps=4, batch_size=8, log_every=2)
    config.optimizer.warmup_steps = 1
    return config


def write_kohya(place, examples):
    """Nine pictures that come three times an epoch."""
    (place / "3_things").mkdir()
    return stores.write_sidecars(place / "3_things", examples)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What configs name in braces."""
    place = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)

    examples = collections.defaultdict(list)

    def pictures(name, count, faulty=False):
        (place / name).mkdir()
        lines = []
        for i in range(count):
            rgba = rng.integers(0, 256, (12, 8 + 8 * (i % 2), 4), np.uint8)
            Image.fromarray(rgba).save(place / name / f"{i}.png")
            fields = {"text": f"a {i}", "alt": f"the {i}", "looks": str(i)}
            lines.append(json.dumps({"file_name": f"{i}.png", **fields}))
            examples[name].append(stores.Example(str(i), (place / name / f"{i}.png").read_bytes(), fields))
        (place / name / "metadata.jsonl").write_text("\n".join(lines))
        if faulty:
            (place / name / "1.png").write_bytes(b"no picture")
        return place / name

    def stored(name, write, of):
        (place / name).mkdir()
        section = write(place / name, examples[of])
        return section.get("builder", place / name)

    made = {
        "root": outcomes.pathlib.Path(__file__).parents[2],
        "pictures": pictures("pictures", 16),
        "others": pictures("others", 9),
        "faulty": pictures("faulty", 16, faulty=True),
        "captioned": pictures("captioned", 2),
        "tfds": stored("tfds", stores.write_tfds, "pictures"),
        "tars": stored("tars", stores.write_tars, "pictures"),
        "other_tars": stored("other_tars", stores.write_tars, "others"),
        "parquets": stored("parquets", stores.write_parquet, "pictures"),
        "other_parquets": stored("other_parquets", stores.write_parquet, "others"),
        "kohya": stored("kohya", write_kohya, "others"),
        "hub": stored("hub", lambda folder, _: (folder / "mark").mkdir() or {}, "others"),
        "clip": random_clip(place / "clip"),
        "sd15": make_stable_diffusion.build("sd15", place / "sd15"),
        "sd3": make_stable_diffusion_3.build("sd3_medium", place / "sd3"),
    }
    # An autoencoder that may compute in float16.
    config = made["sd3"] / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": False}))
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def tools(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAX_DATA_DIR", str(tmp_path.parent / "data"))
    paths = {name: outcomes.pathlib.Path(folders[name]) for name in ("clip", "sd15", "sd3")}
    return outcomes.Tools(place=tmp_path, monkeypatch=monkeypatch, **paths)


def resolved(field, overrides, folders):
    """The values of the field's kind of run with overrides ``key=value``."""
    config = start(field.model)
    pairs = [tuple(f"config.{override}".split("=", 1)) for override in overrides]
    values = resolve(config, [(key, filled(text, folders)) for key, text in pairs])
    return jax.tree.map(lambda leaf: filled(leaf, folders) if isinstance(leaf, str) else leaf, values)


def filled(text, folders):
    """``text`` with folders in the place of their names in braces."""
    return re.sub(r"\{(\w+)\}", lambda found: folders[found[1]], text)


BEFORE = {}
"""Outcomes that several fields are compared with."""


def unchanged(field, given, overrides, folders, tools):
    """The outcome without the field's other value."""
    key = (given.outcome, field.model, overrides)
    if key not in BEFORE:
        BEFORE[key] = given.outcome(resolved(field, overrides, folders), tools)
    return BEFORE[key]


def same(one, other):
    """Whether two outcomes are one."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in pairs)


def test_every_field_has_its_line():
    assert set(FIELDS) == set(CASES)


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_does_something(key, folders, tools):
    field, given = FIELDS[key], CASES[key]
    names = {"empty": str(tools.fresh()), **folders}
    overrides = (*field.names, *given.base)
    changed = (*overrides, f"{field.path}={given.text}")
    if given.refused:
        with pytest.raises(UserError, match=given.refused) as refused:
            check(parse(resolved(field, changed, names)))
        assert "\n" not in str(refused.value)
        return
    before = unchanged(field, given, overrides, names, tools)
    after = given.outcome(resolved(field, changed, names), tools)
    assert not same(before, after), f"{key}: another value changes nothing"


LITERALS = [
    f"{key}={value}"
    for key, field in FIELDS.items()
    for option in (choices_of(field.field.hint) if field.field is not None else ())
    if typing.get_origin(option) is typing.Literal
    for value in typing.get_args(option)
    for given in (CASES.get(key, Case("")),)
    if value not in (field.field.default, given.text) and f"{field.path}={value}" not in given.base
]
"""The other values of fields that have a few."""


@pytest.mark.slow
@pytest.mark.parametrize("key", LITERALS)
def test_every_value_of_a_few_does_something(key, folders, tools):
    key, _, text = key.partition("=")
    field, given = FIELDS[key], CASES[key]
    overrides = (*field.names, *given.base)
    before = unchanged(field, given, overrides, folders, tools)
    try:
        after = given.outcome(resolved(field, (*overrides, f"{field.path}={text}"), folders), tools)
    except UserError as refused:
        assert "\n" not in str(refused)
        return
    assert not same(before, after), f"{key}={text}: it changes nothing"
