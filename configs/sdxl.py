"""Stable Diffusion XL's UNet (2.6 B parameters) on the latents of 1024 × 1024 images, to plan with.

difflax plan --config=configs/sdxl.py --topology=v5e:16x16

Its plan has not been run yet. It is not trained from here: that takes two text encoders, of which a
config names one so far.
"""

import pathlib

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "folder", "path": "images", "height": 1024, "width": 1024}
    config.text_encoder = {"name": "clip", "path": "clip"}
    autoencoder = pathlib.Path(__file__).parent / "autoencoders" / "sdxl"
    config.autoencoder = {"name": "autoencoder_kl", "path": str(autoencoder)}
    config.schedule = {"name": "scaled_linear"}
    config.prediction = {"name": "epsilon"}
    config.loss = {"name": "denoising", "caption_dropout": 0.1, "noise": {"name": "offset"}}
    # stable-diffusion-xl-base-1.0, unet/config.json
    config.model = {
        "name": "unet2d_condition",
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "dtype": "bfloat16",
        "remat": "full",
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-4,
        "warmup_steps": 1000,
        "schedule": "constant",
        "moments": "float32",
    }
    config.ema = {"decay": 0.9999}
    config.mesh = {"data": 1, "fsdp": -1, "context": 1, "tensor": 1}
    config.training = {"steps": 600_000, "batch_size": 256, "accumulate": 1}
    config.sampler = {"name": "euler", "num_steps": 50, "time_grid": {"name": "trailing"}}
    config.guidance = {"name": "cfg", "scale": 5.0}
    return config.lock()
