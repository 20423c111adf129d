"""The autoencoder in a file in the original layout: its names, and the config that they imply."""

import re
from collections.abc import Mapping
from typing import Any

from difflax.pretrained.components.autoencoder import KL
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.tensors import Part, count_of, replaced, shapes_of


def autoencoder_names(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The tensors of an autoencoder of ``config`` by diffusers' names; the decoder's levels are counted from
    the other end.
    """
    levels = len(config.get("block_out_channels", (64,)))
    inside = {
        "mid.block_1.": "mid_block.resnets.0.",
        "mid.block_2.": "mid_block.resnets.1.",
        "mid.attn_1.": "mid_block.attentions.0.",
        "nin_shortcut.": "conv_shortcut.",
        "norm_out.": "conv_norm_out.",
    }
    attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    kinds = {"block": "resnets", "upsample": "upsamplers.0"}
    named: dict[str, Any] = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", name)
        name = re.sub(r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", name)
        match = re.match(r"decoder\.up\.(\d+)\.(block|upsample)\.", name)
        if match is not None:
            level, kind = levels - 1 - int(match[1]), kinds[match[2]]
            name = f"decoder.up_blocks.{level}.{kind}.{name[match.end() :]}"
        name = replaced(name, inside)
        head, found, last = name.partition("mid_block.attentions.0.")
        if found:
            layer, _, kind = last.partition(".")
            name = f"{head}{found}{attention.get(layer, layer)}.{kind}"
            # The attention's layers are 1 × 1 convolutions there.
            tensor = Part(tensor, flat=True) if len(tensor.shape) == 4 else tensor
        named[name] = tensor
    return named


def infer_autoencoder_config(
    vae: Tensors, *, sample_size: int, scaling_factor: float, shift_factor: float | None = None
) -> dict[str, Any]:
    """The autoencoder's config; no tensor tells ``sample_size``, ``scaling_factor`` and ``shift_factor``.

    Raises:
        UserError: tensors that tell the structure are missing or have another number of axes.
    """
    what = "the autoencoder in the file"
    levels = count_of(
        (m[1] for n in vae if (m := re.match(r"encoder\.down\.(\d+)\.", n))), f"the encoder.down of {what}"
    )
    firsts = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(levels)]
    shapes = shapes_of(vae, {"decoder.conv_in.weight": 4} | dict.fromkeys(firsts, 4), what)
    return {
        "_class_name": KL.name,
        "block_out_channels": [shapes[name][0] for name in firsts],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": len({n.split(".")[4] for n in vae if n.startswith("encoder.down.0.block.")}),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "use_quant_conv": "quant_conv.weight" in vae,
        "use_post_quant_conv": "post_quant_conv.weight" in vae,
        "sample_size": sample_size,
        "scaling_factor": scaling_factor,
        **({} if shift_factor is None else {"shift_factor": shift_factor}),
    }
