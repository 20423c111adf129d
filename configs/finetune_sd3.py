"""Fine-tunes a Stable Diffusion 3 or 3.5 checkpoint on captioned images: the transformer, or both CLIPs too.

difflax train --config=configs/finetune_sd3.py --workdir=runs/finetune_sd3 --config.data.path=my_images
difflax train --config=configs/finetune_sd3.py:stabilityai/stable-diffusion-3.5-medium \
  --workdir=runs/finetune_sd35 --config.data.path=my_images --config.model.t5=False
difflax sample --workdir=runs/finetune_sd3 --prompt="…" --output=out

What `configs/finetune_sd15.py` says holds here too. Rectified flow: the squared error of the velocity, at
times that are logit-normal and moved towards the noise as far as the checkpoint's scheduler moves those of
sampling. The full size has not been run.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "stabilityai/stable-diffusion-3-medium-diffusers") -> ConfigDict:
    """``arg``: folder or Hub id of the checkpoint."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("finetune_sd15.py")))
    config = base["get_config"](arg).unlock()
    config.data.update(height=1024, width=1024)
    config.model.update(t5=True, t5_length=256)
    # Esser et al. 2024 (https://arxiv.org/abs/2403.03206), sections 3.1 and 5.1: rf/lognorm(0.00, 1.00).
    config.loss.time_sampler = {"name": "logit_normal"}
    config.loss.weighting = {"name": "constant"}
    config.sampler.num_steps = 28
    config.guidance.scale = 7.0
    return config.lock()
