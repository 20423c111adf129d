"""Fine-tunes a Stable Diffusion XL checkpoint on captioned images: the UNet, or both text encoders too.

difflax train --config=configs/finetune_sdxl.py --workdir=runs/finetune_xl --config.data.path=my_images \
  --config.data.buckets="((832,1216),(1216,832))"
difflax train --config=configs/finetune_sdxl.py:sd_xl_base_1.0.safetensors --workdir=runs/finetune_xl \
  --config.data.path=my_images
difflax sample --workdir=runs/finetune_xl --prompt="…" --output=out

What `configs/finetune_sd15.py` says holds here too. The UNet is told each picture's own size and where it was
cut; dropped captions become zeros where the checkpoint's pipeline has zeros for no prompt. The UNet's 2.6
billion parameters, their average and two moments are 41 GB in float32, divided over `config.mesh.fsdp`. The
full size has not been run.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "stabilityai/stable-diffusion-xl-base-1.0") -> ConfigDict:
    """``arg``: folder, Hub id or file of the checkpoint."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("finetune_sd15.py")))
    config = base["get_config"](arg).unlock()
    config.data.update(height=1024, width=1024)
    # As the base was trained (Podell et al. 2023, https://arxiv.org/abs/2307.01952, section 2.5).
    config.loss.noise = {"name": "offset", "strength": 0.05}
    config.loss.weighting = {"name": "constant"}
    config.guidance.scale = 5.0
    return config.lock()
