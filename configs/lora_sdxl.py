"""Low-rank adaptation (LoRA) of a Stable Diffusion XL checkpoint; see `configs/lora_sd15.py`.

difflax train --config=configs/lora_sdxl.py --workdir=runs/lora_xl --config.data.path=my_images
difflax sample --pretrained=stabilityai/stable-diffusion-xl-base-1.0 --lora=runs/lora_xl/trained:0.8 \
  --prompt="…" --output=out

``config.tune.text_encoder`` names layers of both text encoders. The full size has not been run.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: folder, Hub id or file of the checkpoint; empty for the base."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("lora_sd15.py")))
    return base["get_config"](arg, family="sdxl")
