"""DreamBooth (Ruiz et al. 2022, https://arxiv.org/abs/2208.12242): pictures of one dog become "sks dog".

difflax train --config=configs/dreambooth.py --workdir=runs/dreambooth --config.data.path=my_dog
difflax sample --workdir=runs/dreambooth --prompt="a photo of sks dog on the moon" --output=out

The 200 pictures of the class are made by the checkpoint before training, in the workdir, unless
``config.data.class_path`` names a folder with them; ``--config.data.class_prompt=`` trains without them.
``--config.tune.text_encoder=True --config.cache.text=False`` trains the text encoder as well, and
``configs/dreambooth.py:lora`` a LoRA.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

CHECKPOINT = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: ``"lora"`` for low-rank adaptation."""
    if arg not in ("", "lora"):
        raise ValueError(f"dreambooth.py:{arg}: the one variant is lora")
    base = "lora_sd15.py" if arg == "lora" else "finetune_sd15.py"
    config = runpy.run_path(str(pathlib.Path(__file__).with_name(base)))["get_config"](CHECKPOINT).unlock()
    config.data = {
        "name": "subject",
        "path": "my_dog",
        "prompts": ("a photo of sks dog",),
        "class_prompt": "a photo of dog",
        "class_path": "",
        "class_images": 200,
        "prior_weight": 1.0,
        "height": 512,
        "width": 512,
        "flip": 0.0,
    }
    config.loss.caption_dropout = 0.0
    config.loss.weighting = {"name": "constant"}
    config.optimizer.learning_rate = 1e-4 if arg == "lora" else 5e-6
    config.optimizer.warmup_steps = 0
    config.ema.decay = 0.0
    config.training.steps = 800
    config.training.batch_size = 2
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    return config.lock()
