"""Text-to-image on the embedded ``shapes`` scenes: a 6.7 M-parameter UNet on 8 × 8 squares of 4 × 4 pixels.

difflax train --config=configs/clip.py:shapes --workdir=runs/clip_shapes
difflax train --config=configs/shapes.py --workdir=runs/shapes
difflax ablate --workdir=runs/shapes --guidance_scales=0,1,1.5,2,3,4,6,8 --seeds=3 --output=runs/ablation

Measured on two cores: 1,000 steps (32,000 examples) at about 120 examples a second, 4.8 minutes with
compilation. After 1,000 steps the prompt accuracy of 60 images at each scale is, for one object
with seen pairs 0.00, 0.95, 0.93, 1.00, 0.90, 0.78, 0.47, 0.07; with held-out pairs 0.00, 0.45, 0.48,
0.50, 0.52, 0.47, 0.22, 0.03; for two objects at most 0.02. Two objects, and the shapes of held-out
pairs, are not learned in this time.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "shapes", "train": 20_000, "test": 1_000, "held_out": 500}
    config.text_encoder = {"name": "clip", "path": "runs/clip_shapes"}
    config.autoencoder = {"name": "cosine_transform", "patch_size": 4, "channels": 3, "whitening": 1.25}
    config.schedule = {"name": "rectified_flow", "shift": 1.0}
    config.prediction = {"name": "x0"}
    # Nine in ten training times lie where the picture is still hidden in noise and only the text tells the
    # shape (t > 0.6).
    config.loss = {
        "name": "denoising",
        "caption_dropout": 0.1,
        "weighting": {"name": "constant", "loss_space": "x0"},
        "penalty": {"name": "mean_squared"},
        "noise": {"name": "white"},
        "uncertainty": {"name": "none"},
        "time_sampler": {"name": "logit_normal", "mean": 2.0, "std": 1.2, "stratified": True},
    }
    # Wide where it is cheap: convolutions alone on 8 × 8, attention on 4 × 4. The pooled text scales and
    # shifts every residual block.
    config.model = {
        "name": "unet2d_condition",
        "block_out_channels": (128, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "cross_attention_dim": 128,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 128,
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 16,
        "use_linear_projection": True,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 3e-3,
        "warmup_steps": 50,
        "weight_decay": 0.01,
        "b2": 0.98,
    }
    config.ema = {"decay": 0.995}
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.training = {
        "steps": 1000,
        "batch_size": 32,
        "log_every": 50,
        "checkpoint_every": 1000,
        "sample_every": 0,
        "sample_prompts": (),
    }
    config.sampler = {"name": "dpmpp_2m", "num_steps": 12, "time_grid": {"name": "trailing"}}
    config.guidance = {"name": "cfg", "scale": 2.0}
    config.evaluation = {"name": "shapes", "prompts": 20, "seeds": 3, "real_images": 256}
    return config.lock()
