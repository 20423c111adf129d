"""How the code that a family was published in names the layers that an adapter may change.

kohya's trainer builds Stable Diffusion XL and 3 from that code, and ComfyUI runs it, so their files have
these names; the families read whole checkpoints by the same tables.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable

from difflax.pretrained.families.sd import RESNET_NAMES, UNET_NAMES
from difflax.pretrained.families.sd3 import IMAGE_NAMES, TEXT_NAMES, TRANSFORMER_NAMES


@dataclasses.dataclass(frozen=True)
class Spelled:
    """What one name in a file stands for.

    Attributes:
        layers: ours; several whose outputs follow each other in the file's layer.
        swapped: the second half of the outputs stands first in the file.
    """

    layers: tuple[str, ...]
    swapped: bool = False


def unet_spellings(layers: Collection[str]) -> dict[str, Spelled]:
    """Of a UNet's layers, CompVis' and Stability's names."""
    outside = {new: old for old, new in UNET_NAMES.items()}
    for vector in ("add_embedding", "class_embedding"):
        outside |= {f"{vector}.linear_1": "label_emb.0.0", f"{vector}.linear_2": "label_emb.0.2"}
    resnets = {m[1] for name in layers if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))}
    attended = {m[1] for name in layers if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    names = {name: _unet_name(name, outside, len(resnets), attended) for name in layers}
    return {old: Spelled((name,)) for name, old in names.items() if old is not None}


def _unet_name(name: str, outside: dict[str, str], resnets: int, attended: Collection[str]) -> str | None:
    """One layer's.

    Args:
        resnets: of a level on the way down.
        attended: the levels on the way up that have attention.
    """
    inner = re.fullmatch(r"(.*resnets\.\d+)\.(\w+)", name)
    if inner is not None:
        kinds = {new: old for old, new in RESNET_NAMES.items()}
        place = _unet_name(inner[1], outside, resnets, attended)
        return f"{place}.{kinds[inner[2] + '.'][:-1]}" if f"{inner[2]}." in kinds else None
    for new, old in outside.items():
        if name == new or name.startswith(f"{new}."):
            return old + name[len(new) :]
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(\..*)?", name)
    if match is None:
        return None
    way, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5] or ""
    # On the way down the first block is the first convolution; every level but the last ends in a step.
    side, before = {"down": ("input_blocks", 1), "up": ("output_blocks", 0)}[way]
    first = before + level * (resnets + 1)
    places = {
        "resnets": f"{first + index}.0{rest}",
        "attentions": f"{first + index}.1{rest}",
        "downsamplers": f"{first + resnets}.0.op",
        "upsamplers": f"{first + resnets}.{1 + (match[2] in attended)}{rest}",
    }
    return f"{side}.{places[kind]}" if kind in places else None


def mmdit_spellings(layers: Collection[str]) -> dict[str, Spelled]:
    """Of the layers of Stable Diffusion 3's transformer, Stability's names; queries, keys and values are one
    layer there, or three that are numbered (OneTrainer).
    """
    numbers = [int(m[1]) for name in layers if (m := re.match(r"transformer_blocks\.(\d+)\.", name))]
    if "pos_embed.proj" not in layers or not numbers:
        return {}
    spelled = dict(_pieces(TRANSFORMER_NAMES, "", "", layers, swapped=True))
    for number in sorted(set(numbers)):
        new, old = f"transformer_blocks.{number}.", f"joint_blocks.{number}."
        last = number == max(numbers)
        spelled |= _pieces(IMAGE_NAMES, new, f"{old}x_block.", layers, swapped=False)
        spelled |= _pieces(TEXT_NAMES, new, f"{old}context_block.", layers, swapped=last)
    return spelled


def _pieces(
    table: dict[str, str], new: str, old: str, layers: Collection[str], *, swapped: bool
) -> Iterable[tuple[str, Spelled]]:
    """The entries of a table under two prefixes; ``swapped``: its modulation has the shift first."""
    for original, ours in table.items():
        name = old + original.removesuffix(".")
        names = tuple(new + ours.removesuffix(".").format(part) for part in ("qkv" if "{" in ours else "_"))
        if not set(names) <= set(layers):
            continue
        yield name, Spelled(names, swapped and "adaLN" in original)
        if len(names) > 1:
            yield from ((f"{name}.{i}", Spelled((one,))) for i, one in enumerate(names))
