"""Fine-tunes a Stable Diffusion 1.x or 2.x checkpoint on captioned images: the UNet, or the text encoder too.

difflax train --config=configs/finetune_sd15.py --workdir=runs/finetune --config.data.path=my_images
difflax train --config=configs/finetune_sd15.py:stabilityai/stable-diffusion-2-1 --workdir=runs/finetune_21 \
  --config.data.path=my_images --config.data.height=768 --config.data.width=768
difflax sample --workdir=runs/finetune --prompt="…" --output=out
difflax convert --workdir=runs/finetune --output=finetuned

Schedule, prediction type and sampler are the checkpoint's own. ``config.data`` may be any source: a folder, a
TFDS data set, the embedded ones.
"""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "stable-diffusion-v1-5/stable-diffusion-v1-5") -> ConfigDict:
    """``arg``: folder, Hub id or file of the checkpoint."""
    config = experiment(model="pretrained", data="folder", tune="full", weighting="min_snr", guidance="cfg")
    config.data.update(path="my_images", height=512, width=512)
    # Parameters are float32; "dtype" is that of the computation, and the autoencoder has its own.
    config.model.update(path=arg, dtype="bfloat16", remat="full")
    config.cache.text = True
    # The timesteps that checkpoints were trained on.
    config.loss.time_sampler.timesteps = 1000
    config.optimizer.update(learning_rate=1e-5, warmup_steps=500, schedule="constant", b2=0.999)
    config.ema.decay = 0.9999
    config.mesh.update(data=1, fsdp=-1)
    config.training.update(steps=15_000, batch_size=32)
    return config.lock()
