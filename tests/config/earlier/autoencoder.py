"""configs/autoencoder.py of commit ca6f114."""

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
