"""Text-to-image on the embedded ``shapes`` scenes by Stable Diffusion 3's means: a small MM-DiT and rectified
flow that predicts velocity.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes
difflax train --config=configs/sd3_shapes.py --workdir=runs/sd3_shapes
difflax evaluate --workdir=runs/sd3_shapes --output=runs/sd3_shapes_evaluation

Data, text encoder, codec, distribution of noise levels and evaluation are those of configs/shapes.py,
so that the two networks can be compared at equal training time: set ``training.steps`` to what this one makes
in the time that 1,000 steps of that one take (not measured yet). The MM-DiT reads 8 × 8 squares as 64
tokens beside the caption's 24, and the caption's pooled vector through its modulation.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "shapes", "train": 20_000, "test": 1_000, "held_out": 500}
    config.text_encoder = {"name": "clip", "path": "runs/clip_shapes"}
    config.autoencoder = {"name": "cosine_transform", "patch_size": 4, "channels": 3, "whitening": 1.25}
    config.schedule = {"name": "rectified_flow", "shift": 1.0}
    config.prediction = {"name": "flow_velocity"}
    # A shift of the training times by 3 (SD3, eq. 23) is log 3 on the mean of their logits: 2.0 is a mean of
    # 0.9, shifted. The path has no shift of its own, so that the velocity is the plain ``eps - x0``.
    config.loss = {
        "name": "denoising",
        "caption_dropout": 0.1,
        "weighting": {"name": "constant"},
        "penalty": {"name": "mean_squared"},
        "noise": {"name": "white"},
        "uncertainty": {"name": "none"},
        "time_sampler": {"name": "logit_normal", "mean": 2.0, "std": 1.2, "stratified": True},
    }
    config.model = {
        "name": "mmdit",
        "sample_size": 8,
        "patch_size": 1,
        "num_layers": 6,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 128,
        "pooled_projection_dim": 128,
        "pos_embed_max_size": 8,
        "qk_norm": "rms_norm",
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup_steps": 50,
        "weight_decay": 0.01,
        "b2": 0.98,
    }
    config.ema = {"decay": 0.995}
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.training = {
        "steps": 620,
        "batch_size": 32,
        "log_every": 50,
        "checkpoint_every": 1000,
        "sample_every": 0,
        "sample_prompts": (),
    }
    config.sampler = {
        "name": "dpmpp_2m",
        "num_steps": 12,
        "time_grid": {"name": "flow_shift", "shift": 3.0},
    }
    config.guidance = {"name": "cfg", "scale": 2.0}
    config.evaluation = {"name": "shapes", "prompts": 20, "seeds": 3, "real_images": 256}
    return config.lock()
