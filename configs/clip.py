"""A tiny CLIP, trained contrastively on captioned data; its text tower conditions the diffusion models.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes

Of ``shapes``, measured on two cores: 1,000 steps take at most 15 minutes, and 0.62 of the captions find
their picture among 128. What a denoiser can read off the captions depends on two things. One is the
optimiser: with AdamW (learning rate 2e-3) 1 % of the variance of the vectors tells the textures apart, 12 %
the shapes, with Muon 15 and 28 %. The other is ``loss.reconstruction``: without it the image tower sees no
places within such a run, so that the captions' vectors keep none. What a linear reader (`RidgeClassifier`
of scikit-learn) finds in them without it (800 steps) and with it (1,000):

    of one object:   place 0.24 → 0.995, light 0.33 → 1.0, size 1.0 → 1.0
    of two:          relation 0.47 → 0.99, shape of the first 0.74 → 0.997, its colour 0.84 → 1.0

and 0.2 % → 19 % of the variance tells the places apart (tests/text/test_reconstruction.py reads them
again). Hard negatives (captions with one word changed; Yuksekgonul et al. 2023), 450 steps of them, left
place at 0.27 and relation at 0.49.
"""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "shapes") -> ConfigDict:
    """``arg``: the data set, ``shapes`` or ``digits``."""
    digits = arg == "digits"
    config = experiment(model="clip", data=arg or "shapes", optimizer="adamw" if digits else "muon")
    # Every word of the captions of shapes is one of 725 tokens; the longest has 45 words and commas.
    config.tokenizer.update(vocab_size=640 if digits else 768, max_length=12 if digits else 47)
    tower = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config.model.projection_dim = 128
    config.model.text_config.update(tower)
    config.model.vision_config.update(tower, image_size=8 if digits else 32, patch_size=2 if digits else 4)
    if not digits:
        config.data.train = 102_400
        config.loss.reconstruction = 1.0
    rate = 2e-3 if digits else 4e-3
    config.optimizer.update(learning_rate=rate, warmup_steps=30, weight_decay=0.1, b2=0.98)
    config.ema.decay = 0.98
    config.training.update(steps=150 if digits else 1000, batch_size=128)
    return config.lock()
