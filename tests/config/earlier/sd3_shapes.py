"""configs/sd3_shapes.py of commit ca6f114."""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = experiment(
        model="mmdit",
        data="shapes",
        autoencoder="cosine_transform",
        schedule="rectified_flow",
        prediction="flow_velocity",
        time_sampler="logit_normal",
        sampler="dpmpp_2m",
        time_grid="flow_shift",
        guidance="cfg",
        evaluation="shapes",
    )
    config.text_encoder.path = "runs/clip_shapes"
    config.autoencoder.update(patch_size=4, whitening=1.25)
    # A shift of the training times by 3 (SD3, eq. 23) is log 3 on the mean of their logits: 2.0 is a mean of
    # 0.9, shifted. The path has no shift of its own, so that the velocity is the plain ``eps - x0``.
    config.loss.time_sampler.update(mean=2.0, std=1.2, stratified=True)
    config.model.update(
        sample_size=8,
        patch_size=1,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, b2=0.98)
    config.ema.decay = 0.995
    config.training.update(steps=2450, batch_size=8)
    config.sampler.num_steps = 12
    config.sampler.time_grid.shift = 3.0
    config.guidance.scale = 2.0
    config.evaluation.update(prompts=20, seeds=3, real_images=256)
    return config.lock()
