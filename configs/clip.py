"""A tiny CLIP, trained contrastively on captioned data; its text tower conditions the diffusion models.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes
"""

from ml_collections import ConfigDict


def get_config(arg: str = "shapes") -> ConfigDict:
    """``arg``: the data set, ``shapes`` or ``digits``."""
    config = ConfigDict()
    config.seed = 0
    digits = arg == "digits"
    config.data = (
        {"name": "digits"}
        if digits
        else {"name": arg or "shapes", "train": 20_000, "test": 1_000, "held_out": 500}
    )
    config.tokenizer = {"vocab_size": 640, "max_length": 12 if digits else 24}
    config.model = {
        "name": "clip",
        "projection_dim": 128,
        "text_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 8 if digits else 32,
            "patch_size": 2 if digits else 8,
        },
    }
    config.loss = {"name": "contrastive"}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup_steps": 30,
        "weight_decay": 0.1,
        "b2": 0.98,
    }
    config.ema = {"decay": 0.98}
    config.mesh = {"data": -1, "fsdp": 1, "context": 1, "tensor": 1}
    config.training = {
        "steps": 150 if digits else 350,
        "batch_size": 128,
        "log_every": 50,
        "checkpoint_every": 1000,
        "accumulate": 1,
        "keep_checkpoints": 2,
        "profile_steps": (),
        "record_order": False,
    }
    return config.lock()
