"""The autoencoder of the embedded world: 32 × 32 pixels to latents of 4 × 4 with 16 channels, and back.

difflax train --config=configs/autoencoder.py --workdir=runs/autoencoder

It comes with difflax: ``config.autoencoder.path = "embedded"`` is this one.
"""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = experiment(model="autoencoder_kl", data="shapes", optimizer="muon")
    config.model.update(
        block_out_channels=(16, 32, 64, 96),
        latent_channels=16,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=True,
    )
    # Much heavier than for photographs: it costs no detail here, and a denoiser learns the smoother latents
    # in far fewer steps.
    config.loss.kl_weight = 2e-2
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, weight_decay=0.0)
    config.ema.decay = 0.998
    config.data.train = 96_000
    config.training.update(steps=6000, batch_size=16, sample_every=3000)
    return config.lock()
