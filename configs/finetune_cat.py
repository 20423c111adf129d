"""The demonstration of `scripts/finetune_cat.py`: a tiny checkpoint learns three photographs.

python scripts/finetune_cat.py runs/cat

makes the checkpoint and the pictures, trains with this config, and measures: the caption recalls the cat
with 37.8 dB (14.0 before; the autoencoder's best is 45.6), in five minutes on two cores.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "runs/cat") -> ConfigDict:
    """``arg``: the folder that the script filled."""
    base = pathlib.Path(__file__).with_name("finetune_sd15.py")
    config = runpy.run_path(str(base))["get_config"](f"{arg}/checkpoint").unlock()
    config.data = {"name": "folder", "path": f"{arg}/pictures", "height": 32, "width": 32}
    config.model.variant = "fp16"
    config.model.dtype = "float32"
    config.model.remat = "none"
    config.cache.latents = True
    config.loss.caption_dropout = 0.0
    config.loss.weighting = {"name": "constant"}
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.0
    config.ema.decay = 0.99
    config.mesh.update(data=-1, fsdp=1)
    config.training.steps = 2000
    config.training.batch_size = 24
    config.training.checkpoint_every = 2000
    config.guidance.scale = 1.0
    return config.lock()
