"""LoRA files in and out, and what else changes layers' weights: LoHa, LoKr, DoRA, whole differences.

What diffusers' ``load_lora_weights`` reads is written: ``unet.….to_q.lora_A.weight`` [rank, in] and
``lora_B.weight`` [out, rank], and in the header each network's rank, alpha and targets. Read is every dialect
of `difflax.pretrained.adapters.lora_names` with the methods of `difflax.pretrained.adapters.lora_kinds`; a
peft adapter has its alphas in the ``adapter_config.json`` beside it. A file without an alpha has
``alpha = rank``. Nothing is left out: a tensor that is not read is an error that names it.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from difflax.core.types import Params, UserError
from difflax.models.lora import by_layer, layers_of
from difflax.models.weight_changes import Difference, WeightChange, changed
from difflax.pretrained.adapters.lora_alphas import ADAPTER_FILE, ADAPTER_METADATA, Stated, read_stated
from difflax.pretrained.adapters.lora_kinds import read_change
from difflax.pretrained.adapters.lora_names import Dialects, Place, split_name, unread_method
from difflax.pretrained.format.safetensors import (
    PICKLES,
    Tensors,
    open_file,
    refusal,
    write_file,
)
from difflax.pretrained.format.torch_names import TO_TORCH

LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """What a file does to a layer, or to several whose outputs follow each other in the file.

    Attributes:
        place: which.
        leaf: the name of the weight: ``"kernel"``, a norm's ``"scale"``, a table's ``"embedding"``.
        change: of the weight.
        scale: ``alpha / rank``.
        bias: what is added to the bias.
    """

    place: Place
    leaf: str
    change: WeightChange | None = None
    scale: float = 1.0
    bias: np.ndarray | None = None


def merge_lora(
    path: epath.PathLike, networks: Mapping[str, Params], weight: float = 1.0
) -> dict[str, Params]:
    """``networks`` with ``weight`` times a file's change of them.

    In DoRA the weight counts before the lengths are set, as in diffusers; ComfyUI and A1111 take so much of
    the whole change.

    Raises:
        UserError: see `read_lora`, or a weight that is no finite number.
    """
    if not np.isfinite(weight):
        raise UserError(f"LoRA {path}: weight = {weight} must be a finite number")
    merged = dict(networks)
    for name, changes in read_lora(path, networks).items():
        flat = traverse_util.flatten_dict(merged[name])
        for one in changes:
            if one.change is not None:
                _add(flat, one, one.leaf, one.change, weight * one.scale)
            if one.bias is not None:
                _add(flat, one, "bias", Difference(one.bias), weight)
        merged[name] = traverse_util.unflatten_dict(flat)
    return merged


def _add(flat: dict, one: LayerChange, leaf: str, change: WeightChange, strength: float) -> None:
    """Puts a changed weight or bias in the place of the layers'."""
    paths = [(*layer.split("."), leaf) for layer in one.place.spelled.layers]
    parts = [flat[path] for path in paths]
    if one.place.spelled.swapped:
        # In the file's order, and back: shift and scale.
        half = parts[0].shape[-1] // 2
        turned = changed(jnp.roll(parts[0], half, axis=-1), change, strength)
        flat[paths[0]] = jnp.roll(turned, half, axis=-1)
    elif len(parts) == 1:
        flat[paths[0]] = changed(parts[0], change, strength)
    else:
        joined = changed(jnp.concatenate(parts, axis=-1), change, strength)
        ends = np.cumsum([part.shape[-1] for part in parts])[:-1]
        flat.update(zip(paths, jnp.split(joined, ends, axis=-1), strict=True))


def read_lora(path: epath.PathLike, networks: Mapping[str, Params]) -> dict[str, tuple[LayerChange, ...]]:
    """What a file does to each of ``networks`` that it changes.

    Args:
        path: a file, or a folder with one under diffusers' or peft's name.
        networks: parameters or shapes by diffusers' names, ``"unet"``, ``"text_encoder"`` and so on.

    Raises:
        UserError: no such file, a pickle, a damaged file, a method that is not read, or changes of layers
            that the networks do not have or that have other sizes; it names them.
    """
    path = _find(epath.Path(path))
    tensors = open_file(path)
    if not tensors:
        raise UserError(f"{path} holds no LoRA: it has no tensors")
    weights = {name: _weights(params) for name, params in networks.items()}
    grouped = _grouped(path, tensors, weights)
    stated = read_stated(path, networks)
    found: dict[str, list[LayerChange]] = {}
    problems = []
    for place, parts in grouped.items():
        try:
            change = _layer_change(place, parts, weights[place.network], stated[place.network])
        except ValueError as error:
            problems.append(f"{place} {error}")
            continue
        found.setdefault(place.network, []).append(change)
    if problems:
        raise UserError(f"{path} is no LoRA of this model: {_some(problems)}")
    return {name: tuple(changes) for name, changes in found.items()}


Weights = dict[str, dict[str, tuple[int, ...]]]
"""The shapes of every layer's parameters by its dotted name."""
_LEAVES = ("kernel", "scale", "embedding")


def _weights(params: Params) -> Weights:
    return {
        name: {last: tuple(leaf.shape) for last, leaf in leaves.items()}
        for name, leaves in layers_of(params).items()
        if any(leaf in leaves for leaf in _LEAVES)
    }


def _grouped(
    path: epath.Path, tensors: Tensors, weights: Mapping[str, Weights]
) -> dict[Place, dict[str, Any]]:
    """The parts of every layer, not read yet.

    Raises:
        UserError: tensors of no layer, or whose layer is not clear, by what is wrong with them.
    """
    dialects = Dialects(weights)
    grouped: dict[Place, dict[str, Any]] = {}
    methods: dict[str, list[str]] = {}
    strangers: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        split = split_name(name)
        if split is None:
            methods.setdefault(unread_method(name) or "no method that is known", []).append(name)
            continue
        stem, part = split
        places = dialects.places(stem)
        if not places:
            strangers.setdefault(dialects.absent_network(stem) or "", []).append(name)
            continue
        if len(places) > 1:
            owners = " and ".join(place.network for place in places)
            raise UserError(
                f"{path} does not say whose layer {places[0].spelled.layers[0]} is, which {owners} have: put"
                " the network's name before its tensors' names"
            )
        parts = grouped.setdefault(places[0], {})
        if part in parts:
            raise UserError(f"{path} has {part} of {places[0]} twice, once as {name}: keep one of them")
        parts[part] = tensor
    if methods:
        listed = "; ".join(f"{_tensors(names)} of {what}: {_some(names)}" for what, names in methods.items())
        raise UserError(
            f"{path} is not read, since it has {listed}; LoRA, LoHa, LoKr, DoRA and whole differences are."
            " Merge it with the tool that made it and load the merged model"
        )
    if strangers:
        raise UserError(f"{path} is no LoRA of this model: it has {_strangers(strangers)}")
    return grouped


_LEFT_OUT = {"text_encoder_3": " (or not, with t5=False)"}
"""Networks that a model may have been loaded without."""


def _strangers(strangers: Mapping[str, list[str]]) -> str:
    listed = []
    for network, names in strangers.items():
        what = "of layers that it does not have"
        if network:
            what = f"of {network}, which it does not have{_LEFT_OUT.get(network, '')}"
        listed.append(f"{_tensors(names)} {what}: {_some(names)}")
    return "; ".join(listed)


def _layer_change(place: Place, parts: Mapping[str, Any], weights: Weights, stated: Stated) -> LayerChange:
    """The change of one place.

    Raises:
        ValueError: parts that do not fit together or the layer; the end of a sentence about it.
    """
    leaves = [weights[layer] for layer in place.spelled.layers]
    leaf = next(name for name in _LEAVES if name in leaves[0])
    parts = {name: np.asarray(tensor) for name, tensor in parts.items()}
    if not all(np.isfinite(array.astype(np.float32)).all() for array in parts.values()):
        raise ValueError("has numbers that are not finite")
    outputs = sum(shapes[leaf][-1] for shapes in leaves)
    shape = (*leaves[0][leaf][:-1], outputs)
    change = read_change(parts, shape, kernel=leaf == "kernel")
    scale = stated.scale(place.spelled.layers[0], parts.get("alpha"), None if change is None else change.rank)
    bias = _bias(parts, scale)
    if bias is not None and not all("bias" in shapes for shapes in leaves):
        raise ValueError("has a change of a bias that the layer does not have")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"has a change of {bias.size} biases and not of {outputs}")
    if change is None and bias is None:
        raise ValueError(f"has {' and '.join(sorted(parts))} alone")
    return LayerChange(place, leaf, change, scale, bias)


def _bias(parts: Mapping[str, np.ndarray], scale: float) -> np.ndarray | None:
    """What is added to a bias: peft's counts as its factors do."""
    given = [(parts["lora_bias"], scale)] if "lora_bias" in parts else []
    given += [(parts["diff_b"], 1.0)] if "diff_b" in parts else []
    if not given:
        return None
    return sum(array.astype(np.float32).reshape(-1) * factor for array, factor in given)


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
    write_file(
        epath.Path(path), tensors, metadata={ADAPTER_METADATA: json.dumps(facts, indent=2, sort_keys=True)}
    )


def _find(path: epath.Path) -> epath.Path:
    if path.is_dir():
        for name in (LORA_FILE, ADAPTER_FILE):
            if (path / name).is_file():
                return path / name
        raise UserError(f"no {LORA_FILE} or {ADAPTER_FILE} in {path}: name the LoRA's file")
    if path.name.endswith(PICKLES):
        raise UserError(refusal(path))
    return path


def _tensors(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) > 1)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
