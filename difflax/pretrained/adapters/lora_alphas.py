"""The alphas that do not stand among a LoRA's tensors, but in its header (diffusers) or beside it (peft)."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from difflax.core.documents import json_object, read_json
from difflax.core.types import UserError
from difflax.pretrained.format.safetensors import read_metadata

ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""peft's."""
ADAPTER_METADATA = "lora_adapter_metadata"
"""The entry of a file's header."""


@dataclasses.dataclass(frozen=True)
class Stated:
    """What stands beside the tensors about a network's alphas.

    Attributes:
        alpha: of all layers; ``None``: equal to the rank.
        patterns: of those whose name ends in a key.
        rank, ranks: the same of ranks, which count where the tensors have none (LoKr's whole matrices).
        root: ``alpha / sqrt(rank)`` in place of ``alpha / rank`` (rsLoRA, https://arxiv.org/abs/2312.03732).
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rank: float | None = None
    ranks: Mapping[str, float] = dataclasses.field(default_factory=dict)
    root: bool = False

    @classmethod
    def read(cls, facts: Mapping[str, Any], prefix: str = "") -> "Stated":
        """From a peft config's fields: LoRA's ``lora_alpha``, LoHa's and LoKr's ``alpha``.

        Raises:
            ValueError, TypeError, AttributeError: a field is no number, or no mapping to numbers.
        """
        field = {name: facts.get(f"{prefix}{name}") for name in ("lora_alpha", "alpha", "r")}
        alpha = field["alpha"] if field["lora_alpha"] is None else field["lora_alpha"]
        alphas, ranks = (facts.get(f"{prefix}{name}_pattern") or {} for name in ("alpha", "rank"))
        return cls(
            alpha=None if alpha is None else float(alpha),
            patterns={key: float(value) for key, value in alphas.items()},
            rank=None if field["r"] is None else float(field["r"]),
            ranks={key: float(value) for key, value in ranks.items()},
            root=bool(facts.get(f"{prefix}use_rslora")),
        )

    def scale(self, layer: str, alpha: np.ndarray | None, rank: int | None) -> float:
        """The factor on a change of ``rank``; an ``alpha`` among the tensors counts first.

        Raises:
            ValueError: that has more than one number.
        """
        if rank is None:
            rank = _of_layer(layer, self.ranks, self.rank)
        own = _of_layer(layer, self.patterns, self.alpha)
        if alpha is not None:
            if alpha.size != 1:
                raise ValueError(f"has an alpha of {alpha.size} numbers")
            own = float(alpha.astype(np.float32).reshape(()))
        if own is None or rank is None:
            return 1.0
        return own / (math.sqrt(rank) if self.root else rank)


def _of_layer(layer: str, patterns: Mapping[str, float], otherwise: float | None) -> float | None:
    """The value of the first pattern that a layer's name ends in."""
    return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", layer)), otherwise)


def read_stated(path: epath.Path, networks: Iterable[str]) -> dict[str, Stated]:
    """Of each network, from the file's header, or from the config beside a peft adapter.

    Raises:
        UserError: that is damaged.
    """
    where = f"{path}: its {ADAPTER_METADATA}"
    try:
        facts = json_object(read_metadata(path).get(ADAPTER_METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"{where} {error}: fetch it again") from error
    config = path.parent / ADAPTER_CONFIG
    if path.name == ADAPTER_FILE and config.is_file():
        facts, where = read_json(config), str(config)
    # An adapter is of one network, whose name is nowhere.
    bare = "lora_alpha" in facts or "peft_type" in facts
    try:
        return {name: Stated.read(facts, "" if bare else f"{name}.") for name in networks}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where} has a rank or alpha that is no number ({error}): fetch it again") from error
