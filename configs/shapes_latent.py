r"""Latent diffusion end to end: the UNet of configs/shapes.py on the latents of configs/autoencoder.py.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes
difflax train --config=configs/autoencoder.py --workdir=runs/autoencoder
difflax train --config=configs/shapes_latent.py --workdir=runs/shapes_latent
difflax ablate --workdir=runs/shapes_latent --guidance_scales=0,1,1.5,2,3,4,6,8 --seeds=3 \
  --output=runs/latent_ablation

Measured on two cores: 1,000 steps at about 130 examples a second, 4.3 minutes, beside the autoencoder's 14.
Prompt accuracy of 60 images at each scale, and of the model on pixels (configs/shapes.py), as many steps:

| scale | 0 | 1 | 1.5 | 2 | 3 | 4 | 6 | 8 |
|---|---|---|---|---|---|---|---|---|
| one object, seen pairs: latents | 0.02 | 0.93 | 0.92 | 0.95 | 0.95 | 0.95 | 0.80 | 0.48 |
| one object, seen pairs: pixels | 0.00 | 0.95 | 0.93 | 1.00 | 0.90 | 0.78 | 0.47 | 0.07 |
| one object, held-out pairs: latents | 0.00 | 0.65 | 0.65 | 0.68 | 0.75 | 0.77 | 0.53 | 0.33 |
| one object, held-out pairs: pixels | 0.00 | 0.45 | 0.48 | 0.50 | 0.52 | 0.47 | 0.22 | 0.03 |

Two objects: at most 0.02, on either.
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
