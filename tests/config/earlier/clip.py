"""configs/clip.py of commit ca6f114."""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "shapes") -> ConfigDict:
    """``arg``: the data set, ``shapes`` or ``digits``."""
    digits = arg == "digits"
    config = experiment(model="clip", data=arg or "shapes")
    config.tokenizer.update(vocab_size=640, max_length=12 if digits else 24)
    tower = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config.model.projection_dim = 128
    config.model.text_config.update(tower)
    config.model.vision_config.update(tower, image_size=8 if digits else 32, patch_size=2 if digits else 8)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=30, weight_decay=0.1, b2=0.98)
    config.ema.decay = 0.98
    config.training.update(steps=150 if digits else 350, batch_size=128)
    return config.lock()
