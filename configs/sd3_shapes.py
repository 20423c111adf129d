r"""Text-to-image on the embedded world ``shapes`` by Stable Diffusion 3's means: a small MM-DiT and rectified
flow that predicts velocity.

difflax train --config=configs/sd3_shapes.py --workdir=runs/sd3_shapes
difflax ablate --workdir=runs/sd3_shapes --guidance_scales=0,1,2,3,5,8 --seeds=3 \
  --output=runs/sd3_ablation

Data, text encoder, autoencoder, distribution of noise levels and evaluation are those of configs/shapes.py,
so that the two networks can be compared at equal training time. The MM-DiT reads the 4 × 4 latents as 16
tokens beside the caption's 47, and the caption's pooled vector through its modulation.
"""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = experiment(
        model="mmdit",
        data="shapes",
        autoencoder="autoencoder_kl",
        schedule="rectified_flow",
        prediction="flow_velocity",
        time_sampler="logit_normal",
        sampler="dpmpp_2m",
        guidance="cfg",
        evaluation="shapes",
    )
    config.text_encoder.path = config.autoencoder.path = "embedded"
    config.loss.time_sampler.update(mean=0.5, std=1.2, stratified=True)
    config.model.update(
        sample_size=4,
        patch_size=1,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )
    config.data.update(one_object=True, train=30_000)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, b2=0.98)
    config.ema.decay = 0.995
    config.training.update(steps=2000, batch_size=32)
    config.sampler.num_steps = 16
    config.guidance.scale = 2.0
    config.evaluation.update(prompts=20, real_images=256)
    return config.lock()
