"""Stable Diffusion XL's UNet (2.6 B parameters) on the latents of 1024 × 1024 images, to plan with.

difflax plan --config=configs/sdxl.py --topology=v5e:16x16

says: 6.6 of 17.2 GB a chip at a batch of 256, 25.1 TFLOP, roofline 330 ms (docs/sdxl.md). It is not trained
from here: that takes two text encoders, of which a config names one so far.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("sd15.py")))
    config = base["get_config"]().unlock()
    config.data.update(height=1024, width=1024)
    config.autoencoder.path = str(pathlib.Path(__file__).parent / "autoencoders" / "sdxl")
    config.loss.noise = {"name": "offset"}
    # stable-diffusion-xl-base-1.0, unet/config.json
    config.model.update(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        remat="full",
        scan_layers=True,
    )
    config.training.update(steps=600_000, batch_size=256)
    config.sampler = {"name": "euler"}
    config.guidance.scale = 5.0
    return config.lock()
