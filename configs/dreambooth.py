"""DreamBooth (Ruiz et al. 2022, https://arxiv.org/abs/2208.12242): pictures of one dog become "sks dog".

difflax train --config=configs/dreambooth.py --workdir=runs/dreambooth --config.data.path=my_dog
difflax sample --workdir=runs/dreambooth --prompt="a photo of sks dog on the moon" --output=out

The 200 pictures of the class are made by the checkpoint before training, in the workdir, unless
``config.data.class_path`` names a folder with them; ``--config.data.class_prompt=`` trains without them.
``--config.tune.text_encoder=True --config.cache.text=False`` trains the text encoder as well, and
``configs/dreambooth.py:lora`` a LoRA; ``:sdxl``, ``:lora_sdxl``, ``:sd3`` and ``:lora_sd3`` do the same with
the other families (``--config.model.path`` names the checkpoint).
"""

import pathlib
import runpy

from ml_collections import ConfigDict

BASES = {
    "": "finetune_sd15.py",
    "lora": "lora_sd15.py",
    **{family: f"finetune_{family}.py" for family in ("sdxl", "sd3")},
    **{f"lora_{family}": f"lora_{family}.py" for family in ("sdxl", "sd3")},
}


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: a key of `BASES`, for another family or a LoRA."""
    if arg not in BASES:
        raise ValueError(f"dreambooth.py:{arg}: the variants are {', '.join(filter(None, BASES))}")
    base = pathlib.Path(__file__).with_name(BASES[arg])
    config = runpy.run_path(str(base))["get_config"]().unlock()
    config.data = {
        "name": "subject",
        "path": "my_dog",
        "prompts": ("a photo of sks dog",),
        "class_prompt": "a photo of dog",
        "height": config.data.height,
        "width": config.data.width,
    }
    config.loss.caption_dropout = 0.0
    config.loss.weighting = {"name": "constant"}
    config.optimizer.learning_rate = 1e-4 if config.tune.name == "lora" else 5e-6
    config.optimizer.warmup_steps = 0
    config.ema.decay = 0.0
    config.training.steps = 800
    config.training.batch_size = 2
    config.mesh.update(data=-1, fsdp=1)
    return config.lock()
