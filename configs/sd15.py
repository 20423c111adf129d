"""Stable Diffusion 1.5's UNet (860 M parameters) from scratch, on the latents of 512 × 512 images.

difflax plan --config=configs/sd15.py --topology=v5e:4x4

plans it without any file; docs/scaling.md says what came of that. To train it, name a folder of captioned
images, a CLIP, and an autoencoder with its weights: the one named here is a description alone.
"""

import pathlib

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "folder", "path": "images", "height": 512, "width": 512}
    config.text_encoder = {"name": "clip", "path": "clip"}
    autoencoder = pathlib.Path(__file__).parent / "autoencoders" / "sd15"
    config.autoencoder = {"name": "autoencoder_kl", "path": str(autoencoder)}
    config.schedule = {"name": "scaled_linear"}
    config.prediction = {"name": "epsilon"}
    config.loss = {"name": "denoising", "caption_dropout": 0.1}
    config.model = {
        "name": "unet2d_condition",
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "dtype": "bfloat16",
        "remat": "none",
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
    config.training = {"steps": 100_000, "batch_size": 64, "accumulate": 1}
    config.sampler = {"name": "ddim", "num_steps": 50, "time_grid": {"name": "trailing"}}
    config.guidance = {"name": "cfg", "scale": 7.5}
    return config.lock()
