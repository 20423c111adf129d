"""Fine-tuning for real, in minutes on a CPU: a tiny Stable Diffusion of random weights learns scikit-image's
photograph of the cat and two others, each under its caption, and the captions recall them.

    pip install -e '.[test]'
    python scripts/finetune_cat.py runs/cat

UNet and text encoder are those of the tests' fixtures. A random autoencoder shows nothing of a picture, so
one is first trained on the three; then ``difflax train`` does the rest with ``configs/finetune_cat.py``.
Reported is the PSNR of what each caption makes against each photograph, and of what the autoencoder can show.
"""

import json
import pathlib
import runpy
import shutil
import sys

import difflax
import jax.numpy as jnp
import numpy as np
import skimage
from difflax import runs
from difflax.data.pictures import decode
from difflax.data.transforms import fit
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.fixtures import make_stable_diffusion as fixture  # noqa: E402

EDGE, COPIES, AUTOENCODER_STEPS = 32, 8, 1200
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


def config_of(name: str, argument: str):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](argument)


def write_pictures(folder: pathlib.Path, images: np.ndarray) -> None:
    """Each picture `COPIES` times with its caption, since a batch holds different files."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, (image, caption) in enumerate(zip(images, PICTURES.values(), strict=True)):
            for copy in range(COPIES):
                path = folder / split / f"{number}_{copy}.png"
                Image.fromarray(image).save(path)
                path.with_suffix(".txt").write_text(caption)


def fit_autoencoder(place: pathlib.Path) -> None:
    """An autoencoder trained on the three pictures, in the random one's place."""
    config = config_of("autoencoder", "").unlock()
    config.data = {"name": "folder", "path": str(place / "pictures"), "height": EDGE, "width": EDGE}
    widths = {"block_out_channels": (16, 16, 32, 32), "latent_channels": 4, "norm_num_groups": 4}
    config.model = {"name": "autoencoder_kl", "layers_per_block": 1, **widths}
    config.loss.kl_weight = 1e-6
    config.optimizer.learning_rate = 4e-3
    config.training.update(steps=AUTOENCODER_STEPS, batch_size=12, sample_every=0)
    runs.train(config.lock(), place / "autoencoder")
    fixture.build("sd15", place / "checkpoint")
    shutil.rmtree(place / "checkpoint" / "vae")
    shutil.copytree(place / "autoencoder" / "vae", place / "checkpoint" / "vae")


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in decibels."""
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - target) ** 2)))


def main(place: pathlib.Path) -> None:
    images, captions = photographs(), list(PICTURES.values())
    write_pictures(place / "pictures", images)
    if not (place / "checkpoint" / "model_index.json").exists():
        fit_autoencoder(place)
    runs.train(config_of("finetune_cat", str(place)), place / "run")

    before, after = (
        difflax.from_pretrained(str(place / "checkpoint"), variant="fp16"),
        difflax.load(str(place / "run")),
    )
    targets = images / np.float32(255)
    autoencoder, params = after.autoencoder, after.autoencoder_params
    shown = (
        np.asarray(autoencoder.decode(params, autoencoder.encode(params, jnp.asarray(targets * 2 - 1)))) / 2
        + 0.5
    )
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
