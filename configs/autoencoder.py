"""An autoencoder with a KL term on the embedded scenes, 32 × 32 pixels to latents of 8 × 8.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes
difflax train --config=configs/autoencoder.py --workdir=runs/autoencoder

Measured on two cores: 3,000 steps (48,000 examples) at about 60 examples a second, 14 minutes (20 beside
other work). The mean absolute error is then 0.010 in [-1, 1]; shapes, colours and outlines are right.
"""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = experiment(model="autoencoder_kl", data="shapes")
    config.model.update(
        block_out_channels=(32, 64, 128),
        latent_channels=8,
        norm_num_groups=16,
        mid_block_add_attention=False,
    )
    # The distance of CLIP's features beside the pixels': set features to the CLIP's workdir and the weight to
    # 0.1.
    config.loss.kl_weight = 1e-3
    config.optimizer.update(learning_rate=1e-3, warmup_steps=50, weight_decay=0.0, b2=0.98)
    config.ema.decay = 0.995
    config.training.update(steps=3000, batch_size=16, sample_every=1000)
    return config.lock()
