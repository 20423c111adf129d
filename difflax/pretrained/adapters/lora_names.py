"""The dialects of adapters' files: which layer of which network a tensor's name means, and which part it is.

A name is a stem and an end. Ends (``.lora_down.weight``, ``.hada_w1_a``, ``.dora_scale``, …) are `ENDS`.
Stems are compared with dots read as underscores, which makes diffusers' and peft's names
(``unet.down_blocks.0.….to_q``) and kohya's (``lora_unet_down_blocks_0_…_to_q``) two prefixes of one spelling;
`PREFIXES` has those of every network:

====================  ====================================================================================
diffusers             ``unet.``, ``transformer.``, ``text_encoder.``, ``text_encoder_2.``
peft                  none, or ``base_model.model.`` before another
kohya, A1111          ``lora_unet_``, ``lora_te_``, ``lora_te1_``, ``lora_te2_``, ``lora_te3_``
OneTrainer            kohya's, ``lora_transformer_``; of late ``unet.``, ``clip_l.``, ``clip_g.``, ``t5.``
LyCORIS, SimpleTuner  kohya's, ``lycoris_``
ComfyUI               ``diffusion_model.``, ``text_encoders.clip_l.transformer.``
====================  ====================================================================================

After the prefix comes a layer by diffusers' name, by an older name of it, or by the original code's
(`original_spellings`).
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

from difflax.pretrained.adapters.original_spellings import Spelled, mmdit_spellings, unet_spellings

_ADAPTER = r"(?:\.(?!weight$|bias$)[\w-]+)?"
"""The name that peft gives one of several adapters: ``lora_A.default.weight``."""

ENDS = {
    rf"[._](?:lora_down|lora_A|lora\.down|lora_linear_layer\.down){_ADAPTER}(?:\.weight)?": "lora_down",
    rf"[._](?:lora_up|lora_B|lora\.up|lora_linear_layer\.up){_ADAPTER}(?:\.weight)?": "lora_up",
    rf"\.(?:lora_up|lora_B){_ADAPTER}\.bias": "lora_bias",
    r"\.lora_mid(?:\.weight)?": "lora_mid",
    rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?": "magnitude",
    r"\.dora_scale": "dora_scale",
    r"\.alpha": "alpha",
    r"\.(?:diff|w_norm)": "diff",
    r"\.(?:diff_b|b_norm)": "diff_b",
    **{
        rf"\.{part}{_ADAPTER}": part
        for part in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        )
    },
}
"""Patterns of the end of a tensor's name, and the part of a layer's change that it is."""

UNREAD = {
    r"\.(oft_|boft_)": "OFT",
    r"\.([ab][12]\.weight|[ab][12])$": "GLoRA",
    r"\.(on_input|ia3_l)": "(IA)³",
    r"\.vera_lambda": "VeRA",
    r"\.lora_embedding_": "a LoRA of a token table",
    r"^bundle_emb\.": "embeddings packed with the LoRA",
    r"\.(set_weight|reshape_weight)$": "ComfyUI's replaced weights",
    r"\.bias_(indices|values|size)$": "LyCORIS' sparse differences",
    r"\.base_layer\.": "the model's own weights",
}
"""Patterns of the names of what is not read, and what it is."""

PREFIXES = {
    "unet": ("unet", "lora_unet", "lycoris", "diffusion_model", "model_diffusion_model"),
    "transformer": (
        *("transformer", "lora_transformer", "lora_unet", "lycoris"),
        *("diffusion_model", "model_diffusion_model"),
    ),
    "text_encoder": ("text_encoder", "lora_te", "lora_te1", "clip_l", "text_encoders_clip_l_transformer"),
    "text_encoder_2": ("text_encoder_2", "lora_te2", "clip_g", "text_encoders_clip_g_transformer"),
    "text_encoder_3": ("text_encoder_3", "lora_te3", "t5", "text_encoders_t5xxl_transformer"),
}
"""Of each network, without the dot or underscore that follows. A stem without any is looked for in all."""

ORIGINALS: dict[str, Callable[[Collection[str]], dict[str, Spelled]]] = {
    "unet": unet_spellings,
    "transformer": mmdit_spellings,
}
"""How the original code names the layers of a network."""

_OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_OLD = {
    "unet": {"to_out.0": "to_out"},
    "transformer": {"to_out.0": "to_out"},
    "text_encoder": _OLD_TEXT,
    "text_encoder_2": _OLD_TEXT,
}
"""The ends of layers' names in diffusers' oldest files, whose factors are its attention's ``processor``'s."""

_ENDS = [(re.compile(f"(?:{pattern})$"), part) for pattern, part in ENDS.items()]


@dataclasses.dataclass(frozen=True)
class Place:
    """The layer of a file: one or several of a network's."""

    network: str
    spelled: Spelled

    def __str__(self) -> str:
        return f"{self.network}.{' + '.join(self.spelled.layers)}"


def split_name(name: str) -> tuple[str, str] | None:
    """The stem of a tensor's name and its part; ``None``: it is no part that is read."""
    for pattern, part in _ENDS:
        if (match := pattern.search(name)) is not None:
            return name[: match.start()], part
    return None


def unread_method(name: str) -> str | None:
    """What a tensor is, if it is one of `UNREAD`."""
    return next((what for pattern, what in UNREAD.items() if re.search(pattern, name)), None)


class Dialects:
    """All spellings of the layers of some networks."""

    def __init__(self, layers: Mapping[str, Collection[str]]):
        """``layers``: PyTorch's dotted names by the network's."""
        self._tables = {network: _spellings(network, names) for network, names in layers.items()}
        self._prefixes = {f"{p}_": network for network in layers for p in PREFIXES.get(network, (network,))}
        if "text_encoder" not in layers and "text_encoder_2" in layers:
            # A refiner's only one, which kohya's and ComfyUI's files count as the first.
            self._prefixes |= {f"{p}_": "text_encoder_2" for p in ("lora_te", "lora_te1", "text_encoder")}

    def places(self, stem: str) -> list[Place]:
        """What a stem may mean: one place, none, or one in each of several networks."""
        flat = _flat(stem)
        named = [
            (network, flat.removeprefix(prefix))
            for prefix, network in self._prefixes.items()
            if flat.startswith(prefix)
        ]
        for candidates in (named, [(network, flat) for network in self._tables]):
            found = [
                Place(network, self._tables[network][rest])
                for network, rest in candidates
                if rest in self._tables[network]
            ]
            if found:
                return found
        return []

    def absent_network(self, stem: str) -> str | None:
        """The network that a stem names by its prefix, if it is none of these."""
        flat = _flat(stem)
        known = [p for p in self._prefixes if flat.startswith(p)]
        others = {f"{p}_": network for network, ps in PREFIXES.items() for p in ps}
        found = [p for p in others if flat.startswith(p)]
        longest = max(found, key=len, default=None)
        return None if longest is None or longest in known else others[longest]


def _flat(stem: str) -> str:
    return stem.replace("base_model.model.", "").replace(".processor", "").replace(".", "_")


def _spellings(network: str, layers: Collection[str]) -> dict[str, Spelled]:
    table: dict[str, Spelled] = {}
    for name, spelled in ORIGINALS.get(network, lambda _: {})(layers).items():
        table[_flat(name)] = spelled
    for layer in layers:
        spelled, names = Spelled((layer,)), [layer]
        for end, old in _OLD.get(network, {}).items():
            if layer.endswith(f".{end}"):
                names.append(layer.removesuffix(end) + old)
        # transformers 5 leaves out the text tower's first part.
        names += [name.removeprefix("text_model.") for name in names]
        table |= dict.fromkeys(map(_flat, names), spelled)
    return table
