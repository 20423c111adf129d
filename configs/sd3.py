"""Stable Diffusion 3-medium's MM-DiT (2.0 B parameters) on the latents of 1024 × 1024 images, to plan with.

difflax plan --config=configs/sd3.py --topology=v5e:16x16 --tokens=333

says: 5.5 of 17.2 GB a chip at a batch of 256, 35.6 TFLOP, roofline 776 ms (docs/sd3.md). It is not trained
from here: that takes three text encoders, of which a config names one so far. 333 are the 77 tokens of the
two CLIPs and the 256 of T5.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("sd15.py")))
    config = base["get_config"]().unlock()
    config.data.update(height=1024, width=1024)
    config.autoencoder.path = str(pathlib.Path(__file__).parent / "autoencoders" / "sd3")
    config.schedule = {"name": "rectified_flow"}
    config.prediction = {"name": "flow_velocity"}
    # A shift of the training times by 3 (SD3, eq. 23): log 3 on the mean of their logits.
    config.loss.time_sampler = {"name": "logit_normal", "mean": 1.0986}
    # stable-diffusion-3-medium, transformer/config.json
    config.model = {
        "name": "mmdit",
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
        "dtype": "bfloat16",
        "remat": "full",
        "scan_layers": True,
    }
    config.training.update(steps=500_000, batch_size=256)
    config.sampler = {
        "name": "euler",
        "num_steps": 28,
        "time_grid": {"name": "flow_shift", "shift": 3.0},
    }
    config.guidance.scale = 7.0
    return config.lock()
