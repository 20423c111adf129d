"""Low-rank adaptation (LoRA) of a Stable Diffusion 3 or 3.5 checkpoint; see `configs/lora_sd15.py`.

difflax train --config=configs/lora_sd3.py --workdir=runs/lora_sd3 --config.data.path=my_images
difflax sample --pretrained=stabilityai/stable-diffusion-3-medium-diffusers --lora=runs/lora_sd3/trained:0.8 \
  --prompt="…" --output=out

The transformer's layers, ``config.tune.transformer``, also have names for the text: ``attn.add_q_proj``,
``attn.add_k_proj``, ``attn.add_v_proj``, ``attn.to_add_out``, ``ff_context.net.2``. The full size has not
been run.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: folder or Hub id of the checkpoint; empty for SD3-medium."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("lora_sd15.py")))
    return base["get_config"](arg, family="sd3", network="transformer")
