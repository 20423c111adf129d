"""Fine-tuning for real, in minutes on a CPU: a tiny Stable Diffusion of random weights learns scikit-image's
photograph of the cat and two others, each under its caption, and the captions recall them.

    pip install -e '.[test]'
    python scripts/finetune_cat.py runs/cat

The checkpoint is that of the tests' fixtures. Its random autoencoder shows nothing of a picture, so it is
first fitted to the three; then ``difflax train`` does the rest with ``configs/finetune_cat.py``. Reported is
the PSNR of what each caption makes against each photograph, and what the autoencoder itself can show.
"""

import dataclasses
import json
import pathlib
import runpy
import sys

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import skimage
from difflax import experiment
from difflax.data.transforms import decode, fit
from difflax.pretrained.stable_diffusion import load_stable_diffusion
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.fixtures import make_stable_diffusion as fixture  # noqa: E402

EDGE, STEPS, COPIES = 64, 2500, 8
PICTURES = {
    "chelsea.png": "a photograph of a red cat",
    "coffee.png": "an oil painting of the sea at night",
    "rocket.jpg": "two dogs and three birds in the rain",
}
"""Captions in words that the fixtures' tokenizer was trained on; the pictures are scikit-image's."""


def photographs() -> np.ndarray:
    """[3, EDGE, EDGE, 3] uint8."""
    data = pathlib.Path(skimage.__file__).parent / "data"
    return np.stack([fit(decode((data / name).read_bytes(), name), EDGE, EDGE, 3) for name in PICTURES])


def fit_autoencoder(folder: pathlib.Path, images: np.ndarray) -> None:
    """The checkpoint's autoencoder, fitted to the pictures: squared error of what is decoded from a draw."""
    checkpoint = load_stable_diffusion(folder, variant="fp16")
    codec, x = checkpoint.codec, jnp.asarray(images, jnp.float32) / 127.5 - 1
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 6e-3, 100, STEPS))

    def loss(params, key):
        posterior = codec.posterior(params, x)
        z = posterior.sample(key)
        # Latents of about unit variance, as a checkpoint's are once they are scaled.
        spread = jnp.square(jnp.mean(jnp.square(posterior.mean)) - 1)
        made = codec.network.apply(params, z, method="decode")
        return jnp.mean(jnp.square(made - x)) + 1e-2 * spread

    @jax.jit
    def run(params):
        def step(carry, i):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(jax.random.key(0), i))
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(STEPS))

    (params, _), losses = run(checkpoint.codec_params)
    print(f"autoencoder: squared error {losses[0]:.3f} -> {losses[-1]:.5f}")
    configs = dataclasses.replace(checkpoint.configs, vae=checkpoint.configs.vae | {"scaling_factor": 1.0})
    fitted = dataclasses.replace(checkpoint, configs=configs, codec_params=params)
    fitted.save(folder.parent / "checkpoint")


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in decibels."""
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - target) ** 2)))


def main(place: pathlib.Path) -> None:
    images, captions = photographs(), list(PICTURES.values())
    if not (place / "checkpoint" / "model_index.json").exists():
        fixture.build("sd15", place / "random")
        fit_autoencoder(place / "random", images)
    pictures = place / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        for copy in range(COPIES):
            Image.fromarray(image).save(pictures / f"{number}_{copy}.png")
            (pictures / f"{number}_{copy}.txt").write_text(caption)
    config = runpy.run_path(str(ROOT / "configs" / "finetune_cat.py"))["get_config"](str(place))
    experiment.train(config, place / "run")

    before, after = difflax.from_pretrained(str(place / "checkpoint")), difflax.load(str(place / "run"))
    targets = images / np.float32(255)
    codec, params = after.codec, after.codec_params
    shown = np.asarray(codec.decode(params, codec.encode(params, jnp.asarray(targets * 2 - 1)))) / 2 + 0.5
    rows = {
        "autoencoder": [psnr(image, target) for image, target in zip(shown, targets, strict=True)],
    }
    made = after(captions, seed=[0, 1, 2], height=EDGE, width=EDGE)
    for caption, image in zip(captions, made, strict=True):
        rows[caption] = [psnr(image, target) for target in targets]
    first = before(captions[0], seed=0, guidance_scale=1.0, height=EDGE, width=EDGE)[0]
    rows["the cat's caption before training"] = [psnr(first, target) for target in targets]
    print(f"{'PSNR in dB against':45}" + "".join(f"{name:>14}" for name in PICTURES))
    for name, row in rows.items():
        print(f"{name:45}" + "".join(f"{value:14.1f}" for value in row))
    strip = np.concatenate([np.concatenate(list(row), 1) for row in (targets, shown, made)])
    Image.fromarray((np.clip(strip, 0, 1) * 255).astype(np.uint8)).save(place / "recalled.png")
    (place / "psnr.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "runs/cat"))
