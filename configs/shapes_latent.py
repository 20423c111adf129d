r"""Latent diffusion end to end: the UNet of configs/shapes.py on the latents of configs/autoencoder.py.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes
difflax train --config=configs/autoencoder.py --workdir=runs/autoencoder
difflax train --config=configs/shapes_latent.py --workdir=runs/shapes_latent
difflax ablate --workdir=runs/shapes_latent --guidance_scales=0,1,1.5,2,3,4 --seeds=3 \
  --output=runs/latent_ablation

Its accuracy beside the pixel model's is not measured yet.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("shapes.py")))
    config = base["get_config"]().unlock()
    config.autoencoder = {"name": "autoencoder_kl", "path": "runs/autoencoder"}
    return config.lock()
