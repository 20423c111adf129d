"""Real handwritten digits, 8 × 8 pixels, prompted in words: a UNet on 4 × 4 squares of 2 × 2 pixels.

difflax train --config=configs/clip.py:digits --workdir=runs/clip_digits
difflax train --config=configs/digits.py --workdir=runs/digits
difflax evaluate --workdir=runs/digits --output=runs/digits_evaluation

Measured on two idle cores: the CLIP takes 31 s, 800 steps of the UNet (25,600 examples) 92 s, start and
compilation included. A support vector machine trained on the real training digits then reads the prompted
digit in 1.000 of 200 samples at guidance scale 2.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "digits"}
    config.text_encoder = {"name": "clip", "path": "runs/clip_digits"}
    config.autoencoder = {"name": "cosine_transform", "patch_size": 2, "channels": 1, "whitening": 0.5}
    config.schedule = {"name": "rectified_flow", "shift": 1.0}
    config.prediction = {"name": "x0"}
    config.loss = {
        "name": "denoising",
        "caption_dropout": 0.1,
        "weighting": {"name": "constant", "loss_space": "x0"},
        "penalty": {"name": "mean_squared"},
        "noise": {"name": "white"},
        "uncertainty": {"name": "none"},
        "time_sampler": {"name": "logit_normal", "mean": 0.8, "std": 1.2, "stratified": True},
    }
    config.model = {
        "name": "unet2d_condition",
        "block_out_channels": (128,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D",),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "cross_attention_dim": 128,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 128,
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 16,
        "use_linear_projection": True,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup_steps": 50,
        "weight_decay": 0.01,
        "b2": 0.98,
    }
    config.ema = {"decay": 0.995}
    config.mesh = {"data": -1, "fsdp": 1, "context": 1, "tensor": 1}
    config.training = {
        "steps": 800,
        "batch_size": 32,
        "log_every": 50,
        "checkpoint_every": 1000,
        "sample_every": 0,
        "sample_prompts": (),
        "accumulate": 1,
        "keep_checkpoints": 2,
        "profile_steps": (),
        "record_order": False,
    }
    config.sampler = {"name": "dpmpp_2m", "num_steps": 16, "time_grid": {"name": "trailing"}}
    config.guidance = {"name": "cfg", "scale": 2.0}
    config.evaluation = {"name": "digits", "seeds": 10}
    return config.lock()
