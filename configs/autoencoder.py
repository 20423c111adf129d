"""An autoencoder with a KL term on the embedded scenes, 32 × 32 pixels to latents of 8 × 8.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes
difflax train --config=configs/autoencoder.py --workdir=runs/autoencoder

Measured on two cores: 3,000 steps (48,000 examples) at about 60 examples a second, 14 minutes (20 beside
other work). The mean absolute error is then 0.010 in [-1, 1]; shapes, colours and outlines are right.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "shapes", "train": 20_000, "test": 1_000, "held_out": 500}
    config.model = {
        "name": "autoencoder_kl",
        "block_out_channels": (32, 64, 128),
        "layers_per_block": 1,
        "latent_channels": 8,
        "norm_num_groups": 16,
        "mid_block_add_attention": False,
    }
    # The distance of CLIP's features beside the pixels': set features to the CLIP's workdir and the weight to
    # 0.1.
    config.loss = {"name": "autoencoding", "kl_weight": 1e-3, "feature_weight": 0.0, "features": ""}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-3,
        "warmup_steps": 50,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "b2": 0.98,
    }
    config.ema = {"decay": 0.995}
    config.mesh = {"data": -1, "fsdp": 1, "context": 1, "tensor": 1}
    config.training = {
        "steps": 3000,
        "batch_size": 16,
        "log_every": 50,
        "checkpoint_every": 1000,
        "sample_every": 1000,
        "sample_prompts": (),
        "accumulate": 1,
        "keep_checkpoints": 2,
        "profile_steps": (),
        "record_order": False,
    }
    return config.lock()
