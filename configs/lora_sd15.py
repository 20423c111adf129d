"""Low-rank adaptation (LoRA) of a Stable Diffusion 1.x or 2.x checkpoint: a file of a few megabytes.

difflax train --config=configs/lora_sd15.py --workdir=runs/lora --config.data.path=my_images
difflax sample --pretrained=stable-diffusion-v1-5/stable-diffusion-v1-5 --lora=runs/lora/trained:0.8 \
  --prompt="…" --output=out

``runs/lora/trained/pytorch_lora_weights.safetensors`` is what diffusers' ``load_lora_weights`` reads. Targets
are the ends of layers' names; attention and the feed-forward: ``("to_q", "to_k", "to_v", "to_out.0",
"ff.net.0.proj", "ff.net.2")``.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "", family: str = "sd15", network: str = "unet") -> ConfigDict:
    """``arg``: folder, Hub id or file of the checkpoint; empty for the family's first.

    ``family``: of ``configs/finetune_<family>.py``, whose denoising network is ``network``.
    """
    base = runpy.run_path(str(pathlib.Path(__file__).with_name(f"finetune_{family}.py")))["get_config"]
    config = (base(arg) if arg else base()).unlock()
    layers = ("to_q", "to_k", "to_v", "to_out.0")
    config.tune = {"name": "lora", "rank": 8, "alpha": 8.0, network: layers}
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 100
    config.ema.decay = 0.999
    config.training.steps = 3_000
    config.training.batch_size = 8
    return config.lock()
