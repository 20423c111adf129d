"""A sweep small enough to know by heart: what is drawn at a scale is a formula."""

import numpy as np
from difflax.evaluation.ablation.results import Provenance
from difflax.evaluation.ablation.sweep import run_ablation
from difflax.evaluation.measurement import FeatureSpace, Instruments, Judge, PromptGroup
from difflax.evaluation.metrics import ACCURACY, share_read

SCALES = (0.0, 1.0, 2.0, 4.0)
SEEDS = tuple(range(3, 15))
WORDS = {"red": 0, "green": 1, "blue": 2}
SEEN = ("a red ball", "a green ball", "a blue ball", "a red box", "a green box", "a blue box")
UNSEEN = ("a green tree", "a blue tree", "a red tree")
DRAWN = {p: tuple(15 * i + seed for seed in SEEDS) for i, p in enumerate((*SEEN, *UNSEEN))}
"""The seeds of each prompt's images: no two images of a scale share one."""


def noise(prompt, seed):
    """A number in [0, 1) that depends on prompt and seed alone."""
    return np.random.default_rng([seed, *prompt.encode()]).random()


def right(prompt, seed, scale):
    """The image shows the right colour more often at higher scales, up to scale 2."""
    return noise(prompt, seed) < (1 + min(scale, 2)) / 3.0


def draw(prompts, seeds, scale):
    """The named channel lit if right, else the next one; brightness grows with the scale."""
    images = np.full((len(prompts), 8, 8, 3), 0.2, np.float32)
    for image, prompt, seed in zip(images, prompts, seeds, strict=True):
        colour = next(channel for word, channel in WORDS.items() if word in prompt)
        shown = colour if right(prompt, int(seed), scale) else (colour + 1) % 3
        image[2:6, 2:6, shown] = min(0.6 + 0.1 * scale, 1.0)
        image += 0.02 * (noise(prompt, int(seed) + 100) - 0.5)
    return np.clip(images, 0, 1)


def read(images, prompts):
    """Reads the brightest channel; "box" prompts are the only ones asked about corners."""
    brightest = images[:, 3, 3].argmax(-1)
    named = np.array([next(c for word, c in WORDS.items() if word in prompt) for prompt in prompts])
    asked = np.array(["box" in prompt for prompt in prompts])
    correct = (brightest == named).astype(float)
    return {"corners": np.where(asked, correct, np.nan), "accuracy": correct}


def image_features(images):
    return np.concatenate([images.mean((1, 2)), np.ones((len(images), 1)) * 0.1], axis=1)


def text_features(prompts):
    lit = [next(c for word, c in WORDS.items() if word in prompt) for prompt in prompts]
    return np.concatenate([np.eye(3)[lit], np.full((len(prompts), 1), 0.1)], axis=1)


def groups():
    real = draw([prompt for prompt in SEEN for _ in range(24)], np.arange(144), 2.0)
    captions = tuple(prompt for prompt in SEEN for _ in range(24))
    seen = PromptGroup(
        name="seen", prompts=SEEN, chance={"accuracy": 1 / 3}, real_images=real, real_prompts=captions
    )
    return [seen, PromptGroup(name="<unseen> & new", prompts=UNSEEN)]


def instruments():
    space = FeatureSpace(name="channel means", preprocessing="none", image=image_features, text=text_features)
    metrics = (ACCURACY, share_read("corners", "Corners accuracy", "the corners"))
    return Instruments(features=space, judge=Judge(read=read, metrics=metrics))


def provenance(**changes):
    fields = {"command": "difflax ablate --prompt='<b>'", "checkpoint": "runs/test, step 1"}
    return Provenance(**{**fields, "sampler": "ddim", "num_steps": 4, "config": {"seed": 0}, **changes})


def sweep(directory, generate=draw, **changes):
    settings = {
        "scales": SCALES,
        "seeds": SEEDS,
        "provenance": provenance(),
        "instruments": instruments(),
        "batch_size": 7,
        "show_progress": False,
    }
    prompt_groups = changes.pop("groups", None) or groups()
    return run_ablation(generate, prompt_groups, directory=directory, **{**settings, **changes})
