"""Real handwritten digits, 8 × 8 pixels, prompted in words.

    difflax train --config=configs/clip.py:digits --workdir=runs/clip_digits
    difflax train --config=configs/digits.py --workdir=runs/digits
    difflax evaluate --workdir=runs/digits --output=runs/digits_evaluation
"""

from ml_collections import ConfigDict

from configs import shapes


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = ConfigDict(shapes.get_config().to_dict())
    config.data = {"name": "digits"}
    config.text_encoder.path = "runs/clip_digits"
    config.autoencoder = {"name": "patchify", "patch_size": 1, "channels": 1}
    config.model.block_out_channels = (64,)
    config.training.steps = 800
    config.guidance.scale = 2.0
    config.evaluation = {"name": "digits", "seeds": 10}
    return config.lock()
