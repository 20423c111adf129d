"""Fine-tunes a Stable Diffusion 1.x or 2.x checkpoint on captioned images: the UNet, or the text encoder too.

difflax train --config=configs/finetune_sd15.py --workdir=runs/finetune --config.data.path=my_images
difflax train --config=configs/finetune_sd15.py:stabilityai/stable-diffusion-2-1 --workdir=runs/finetune_21 \
  --config.data.path=my_images --config.data.height=768 --config.data.width=768
difflax sample --workdir=runs/finetune --prompt="…" --output=out
difflax convert --workdir=runs/finetune --output=finetuned

Schedule, prediction type and sampler are the checkpoint's own. ``config.data`` may be any source: a folder, a
TFDS data set, the embedded ones.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "stable-diffusion-v1-5/stable-diffusion-v1-5") -> ConfigDict:
    """``arg``: folder, Hub id or file of the checkpoint."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "folder", "path": "my_images", "height": 512, "width": 512, "flip": 0.0}
    # Parameters are float32; "dtype" is that of the computation, and the autoencoder has its own.
    config.model = {
        "name": "pretrained",
        "path": arg,
        "variant": "",
        "revision": "",
        "config": "",
        "dtype": "bfloat16",
        "vae_dtype": "float32",
        "remat": "full",
        "scan_layers": False,
        "copy": True,
    }
    config.tune = {"name": "full", "text_encoder": False}
    config.cache = {"latents": False, "text": True}
    config.loss = {
        "name": "denoising",
        "caption_dropout": 0.1,
        "masked": False,
        "weighting": {"name": "min_snr", "gamma": 5.0},
        "penalty": {"name": "mean_squared"},
        "noise": {"name": "white"},
        "uncertainty": {"name": "none"},
        "time_sampler": {"name": "uniform", "stratified": False, "timesteps": 1000},
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-5,
        "warmup_steps": 500,
        "schedule": "constant",
        "weight_decay": 0.01,
        "b2": 0.999,
        "clip_norm": 1.0,
    }
    config.ema = {"decay": 0.9999}
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}
    config.training = {
        "steps": 15_000,
        "batch_size": 32,
        "log_every": 50,
        "checkpoint_every": 1000,
        "sample_every": 0,
        "sample_prompts": (),
    }
    config.sampler = {"num_steps": 50}
    config.guidance = {"name": "cfg", "scale": 7.5}
    return config.lock()
