"""Stable Diffusion 1.5's UNet (860 M parameters) from scratch, on the latents of 512 × 512 images.

difflax plan --config=configs/sd15.py --topology=v5e:4x4

plans it without any file; docs/scaling.md says what came of that. To train it, name a folder of captioned
images, a CLIP, and an autoencoder with its weights: the one named here is a description alone.
"""

import pathlib

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = experiment(
        model="unet2d_condition",
        data="folder",
        autoencoder="autoencoder_kl",
        schedule="scaled_linear",
        prediction="epsilon",
        sampler="ddim",
        guidance="cfg",
    )
    config.data.update(path="images", height=512, width=512)
    config.text_encoder.path = "clip"
    config.autoencoder.path = str(pathlib.Path(__file__).parent / "autoencoders" / "sd15")
    config.model.update(cross_attention_dim=768, dtype="bfloat16")
    config.optimizer.update(learning_rate=1e-4, warmup_steps=1000, schedule="constant")
    config.ema.decay = 0.9999
    config.mesh.update(data=1, fsdp=-1)
    config.training.update(steps=100_000, batch_size=64)
    return config.lock()
