"""configs/shapes.py of commit ca6f114."""

from difflax.config import experiment
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = experiment(
        model="unet2d_condition",
        data="shapes",
        autoencoder="cosine_transform",
        prediction="x0",
        time_sampler="logit_normal",
        sampler="dpmpp_2m",
        guidance="cfg",
        evaluation="shapes",
    )
    config.text_encoder.path = "runs/clip_shapes"
    config.autoencoder.update(patch_size=4, whitening=1.25)
    config.loss.weighting.loss_space = "x0"
    # Nine in ten training times lie where the picture is still hidden in noise and only the text tells the
    # shape (t > 0.6).
    config.loss.time_sampler.update(mean=2.0, std=1.2, stratified=True)
    # Wide where it is cheap: convolutions alone on 8 × 8, attention on 4 × 4. The pooled text scales and
    # shifts every residual block.
    config.model.update(
        block_out_channels=(128, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=128,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=128,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=16,
        use_linear_projection=True,
    )
    config.optimizer.update(learning_rate=3e-3, warmup_steps=50, b2=0.98)
    config.ema.decay = 0.995
    config.training.update(steps=1000, batch_size=32)
    config.sampler.num_steps = 12
    config.guidance.scale = 2.0
    config.evaluation.update(prompts=20, seeds=3, real_images=256)
    return config.lock()
