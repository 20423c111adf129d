"""LoRA files in and out, in the layouts of diffusers, peft and kohya.

What diffusers' ``load_lora_weights`` reads is written: ``unet.….to_q.lora_A.weight`` [rank, in] and
``lora_B.weight`` [out, rank], and in the header each network's rank, alpha and targets. Read are that,
diffusers' older spellings (``lora.down``, ``to_q_lora.down``, ``lora_linear_layer.down``, ``.processor.``), a
peft adapter (``base_model.model.…`` with ``adapter_config.json`` beside it), and kohya's (``lora_unet_…``,
``lora_te_…`` with ``lora_down``, ``lora_up`` and ``alpha``). A file without an alpha has ``alpha = rank``.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from difflax.core.types import Params, UserError
from difflax.models.lora import adaptable_layers, add_factors, by_layer
from difflax.pretrained.format.safetensors import (
    PICKLES,
    Tensors,
    open_file,
    read_json,
    read_metadata,
    refusal,
    write_file,
)
from difflax.pretrained.format.torch_names import FROM_TORCH, TO_TORCH

FILE, ADAPTER_FILE, ADAPTER_CONFIG = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)
METADATA = "lora_adapter_metadata"
KOHYA = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
OTHERS = ("dora_scale", "lora_magnitude_vector", "hada_", "lokr_", "lora_B.bias")
"""In the names of tensors of other methods, which the two factors do not express."""

_ENDS = re.compile(
    r"[._](lora_A|lora_B|lora_(down|up)|lora\.(down|up)|lora_linear_layer\.(down|up))(\.default)?\.weight$"
    r"|\.alpha$"
)
_PARTS = {"alpha": ("alpha",), "down": ("down", "lora_A"), "up": ("up", "lora_B")}
_OLD_OF_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_OLD_NAMES = {
    "unet": {"to_out": "to_out.0"},
    "text_encoder": _OLD_OF_TEXT,
    "text_encoder_2": _OLD_OF_TEXT,
}
"""The last part of a layer's name in diffusers' oldest files, whose factors are its ``processor``'s."""


@dataclasses.dataclass(frozen=True)
class LoraFactors:
    """The factors of one file for one network.

    Attributes:
        factors: see `difflax.models.lora`.
        scales: ``alpha / rank`` of every layer.
    """

    factors: Params
    scales: dict[str, float]


def merge_lora(
    path: epath.PathLike, networks: Mapping[str, Params], weight: float = 1.0
) -> dict[str, Params]:
    """``networks`` with ``weight`` times a file's change of them.

    Raises:
        UserError: see `read_lora`, or a weight that is no finite number.
    """
    if not np.isfinite(weight):
        raise UserError(f"LoRA {path}: weight = {weight} must be a finite number")
    merged = dict(networks)
    for name, lora in read_lora(path, networks).items():
        scales = {layer: weight * scale for layer, scale in lora.scales.items()}
        merged[name] = add_factors(merged[name], lora.factors, scales)
    return merged


def read_lora(path: epath.PathLike, networks: Mapping[str, Params]) -> dict[str, LoraFactors]:
    """The factors of a file for each of ``networks`` that it changes.

    Args:
        path: a file, or a folder with one under diffusers' or peft's name.
        networks: parameters or shapes by diffusers' names, ``"unet"``, ``"text_encoder"`` and so on.

    Raises:
        UserError: no such file, a pickle, a damaged file, another method than LoRA, or factors of layers that
            the networks do not have or that have other sizes; it names them.
    """
    path = _find(epath.Path(path))
    tensors = open_file(path)
    others = sorted(name for name in tensors if any(mark in name for mark in OTHERS))
    if others:
        raise UserError(
            f"{path} holds {others[0]}: only plain LoRA is supported, without DoRA, LoHa, LoKr or bias"
        )
    layers = {name: adaptable_layers(params) for name, params in networks.items()}
    pairs, unknown = _pairs(path, tensors, layers)
    if unknown:
        raise UserError(f"{path} is no LoRA of this model: it has {_some(unknown)}")
    if not pairs:
        raise UserError(f"{path} holds no LoRA: it has no tensors")
    stated = _stated(path, networks)
    factors: dict[str, dict] = {}
    scales: dict[str, dict[str, float]] = {}
    problems = []
    for (network, layer), pair in sorted(pairs.items()):
        try:
            down, up = _laid_out(pair, layers[network][layer])
        except ValueError as error:
            problems.append(f"{layer} {error}")
            continue
        factors.setdefault(network, {}).update(
            {(*layer.split("."), "down"): down, (*layer.split("."), "up"): up}
        )
        scales.setdefault(network, {})[layer] = stated[network].scale(layer, pair, down.shape[-1])
    if problems:
        raise UserError(f"{path} is no LoRA of this model: {_some(problems)}")
    return {name: LoraFactors(traverse_util.unflatten_dict(factors[name]), scales[name]) for name in factors}


def _laid_out(pair: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Both factors as `difflax.models.lora` has them, for a kernel of ``shape``.

    Raises:
        ValueError: the end of a sentence about the layer.
    """
    if "down" not in pair or "up" not in pair:
        raise ValueError("has one factor of two")
    down, up = np.asarray(pair["down"]), np.asarray(pair["up"])
    if not {down.ndim, up.ndim} <= set(FROM_TORCH):
        raise ValueError(f"has factors of {down.ndim} and {up.ndim} axes")
    down, up = (a.transpose(FROM_TORCH[a.ndim]) for a in (down, up))
    *window, inputs, outputs = shape
    given = (down.shape[-2], up.shape[-1])
    if given != (inputs, outputs):
        raise ValueError(f"has factors for {given} channels and not {(inputs, outputs)}")
    rank = down.shape[-1]
    if up.size != rank * outputs or down.size != math.prod(window) * inputs * rank:
        raise ValueError(f"has factors of shapes {down.shape} and {up.shape}")
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise ValueError("has factors that are not finite")
    # A 1 × 1 convolution and a linear layer take each other's.
    return down.reshape(*window, inputs, rank), up.reshape(*[1] * len(window), rank, outputs)


def save_lora(
    path: epath.PathLike,
    factors: Mapping[str, Params],
    *,
    alpha: float,
    targets: Mapping[str, tuple[str, ...]],
) -> None:
    """Writes a LoRA as diffusers reads it.

    Args:
        factors: by the networks' names, see `difflax.models.lora`.
        alpha: of all layers.
        targets: which layers of each network were chosen, for peft.
    """
    tensors, facts = {}, {}
    for network, tree in factors.items():
        for layer, pair in by_layer(tree).items():
            for part, array in zip(("lora_A", "lora_B"), pair, strict=True):
                array = np.asarray(array)
                tensors[f"{network}.{layer}.{part}.weight"] = array.transpose(TO_TORCH[array.ndim])
            rank = pair[0].shape[-1]
        facts |= {
            f"{network}.r": rank,
            f"{network}.lora_alpha": alpha,
            f"{network}.target_modules": list(targets[network]),
        }
    write_file(epath.Path(path), tensors, metadata={METADATA: json.dumps(facts, indent=2, sort_keys=True)})


def _find(path: epath.Path) -> epath.Path:
    if path.is_dir():
        for name in (FILE, ADAPTER_FILE):
            if (path / name).is_file():
                return path / name
        raise UserError(f"no {FILE} or {ADAPTER_FILE} in {path}: name the LoRA's file")
    if path.name.endswith(PICKLES):
        raise UserError(refusal(path))
    return path


def _pairs(
    path: epath.Path, tensors: Tensors, layers: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    """``{"down", "up", "alpha"}`` of every layer, by network and layer; and the names of no layer."""
    flat = {
        prefix + layer.replace(".", "_"): (network, layer)
        for prefix, network in KOHYA.items()
        for layer in layers.get(network, {})
    }
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    unknown = []
    for name, tensor in tensors.items():
        end = _ENDS.search(name)
        stem = name[: end.start()] if end else name
        places = [flat[stem]] if stem in flat else _places(stem, layers)
        if end is None or not places:
            unknown.append(name)
            continue
        if len(places) > 1:
            owners = " and ".join(network for network, _ in places)
            raise UserError(
                f"{path} does not say whose layer {places[0][1]} is, which {owners} have: put the network's"
                " name before its tensors' names"
            )
        part = next(part for part, marks in _PARTS.items() if any(mark in end[0] for mark in marks))
        pairs.setdefault(places[0], {})[part] = tensor
    return pairs, unknown


def _places(stem: str, layers: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The networks and layers that a dotted name may mean."""
    stem = stem.removeprefix("base_model.model.").replace(".processor", "")
    prefix, _, rest = stem.partition(".")
    # A file of a single network has no prefix.
    candidates = [(prefix, rest)] if prefix in layers else [(network, stem) for network in layers]
    found = []
    for network, layer in candidates:
        parents, _, last = layer.rpartition(".")
        old = f"{parents}.{_OLD_NAMES.get(network, {}).get(last, last)}"
        # transformers 5 leaves out the text tower's first part.
        spellings = (layer, old, f"text_model.{layer}", f"text_model.{old}")
        found += [(network, known) for known in spellings if known in layers[network]][:1]
    return found


@dataclasses.dataclass(frozen=True)
class Stated:
    """What stands beside the tensors about a network's alphas.

    Attributes:
        alpha: of all layers; ``None``: equal to the rank.
        patterns: of those whose name ends in a key.
        root: ``alpha / sqrt(rank)`` in place of ``alpha / rank`` (rsLoRA, https://arxiv.org/abs/2312.03732).
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = dataclasses.field(default_factory=dict)
    root: bool = False

    @classmethod
    def read(cls, facts: Mapping[str, Any], prefix: str = "") -> "Stated":
        """From a peft config's fields."""
        alpha, patterns = facts.get(f"{prefix}lora_alpha"), facts.get(f"{prefix}alpha_pattern") or {}
        return cls(
            None if alpha is None else float(alpha),
            {key: float(value) for key, value in patterns.items()},
            bool(facts.get(f"{prefix}use_rslora")),
        )

    def scale(self, layer: str, pair: Mapping[str, Any], rank: int) -> float:
        """The factor on a layer's change; an alpha among the tensors counts first."""
        own = next(
            (a for key, a in self.patterns.items() if re.match(rf"(.*\.)?({key})$", layer)), self.alpha
        )
        alpha = float(np.asarray(pair["alpha"])) if "alpha" in pair else rank if own is None else float(own)
        return alpha / (math.sqrt(rank) if self.root else rank)


def _stated(path: epath.Path, networks: Iterable[str]) -> dict[str, Stated]:
    """Of each network, from the file's header, or from the config beside a peft adapter."""
    try:
        facts = json.loads(read_metadata(path).get(METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"{path}: its {METADATA} is not valid JSON ({error}): fetch it again") from error
    facts = facts if isinstance(facts, dict) else {}
    stated = {name: Stated.read(facts, f"{name}.") for name in networks}
    config = path.parent / ADAPTER_CONFIG
    if path.name == ADAPTER_FILE and config.is_file():
        facts = read_json(config)
    if "lora_alpha" in facts:
        # An adapter is of one network, whose name is nowhere.
        stated = dict.fromkeys(stated, Stated.read(facts))
    return stated


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
