"""Textual inversion (Gal et al. 2022, https://arxiv.org/abs/2208.01618): a new word for what pictures show.

difflax train --config=configs/textual_inversion.py --workdir=runs/toy --config.data.path=my_toy
difflax sample --pretrained=stable-diffusion-v1-5/stable-diffusion-v1-5 --textual_inversion=runs/toy/trained \
  --prompt="a <toy> in the snow" --output=out

``runs/toy/trained/learned_embeds.safetensors`` is what diffusers' ``load_textual_inversion`` reads. Another
word: ``configs/textual_inversion.py:<dog>``.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

CHECKPOINT = "stable-diffusion-v1-5/stable-diffusion-v1-5"

TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a bright photo of the {}",
    "a close-up photo of a {}",
    "a photo of one {}",
    "a good photo of a {}",
)


def get_config(arg: str = "<toy>") -> ConfigDict:
    """``arg``: the new word."""
    base = pathlib.Path(__file__).with_name("finetune_sd15.py")
    config = runpy.run_path(str(base))["get_config"](CHECKPOINT).unlock()
    config.data = {
        "name": "subject",
        "path": "my_toy",
        "prompts": tuple(template.format(arg) for template in TEMPLATES),
        "height": 512,
        "width": 512,
    }
    config.tune = {"name": "textual_inversion", "token": arg, "initializer": "toy"}
    config.cache.text = False
    config.loss.caption_dropout = 0.0
    config.loss.weighting = {"name": "constant"}
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 0
    config.ema.decay = 0.0
    config.training.steps = 3_000
    config.training.batch_size = 4
    config.mesh.update(data=-1, fsdp=1)
    return config.lock()
