"""The manifest of a result: what two results must share for their numbers to mean the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from difflax.evaluation.ablation.results import AblationResult

MEASURE = (
    *("prompts", "images of an arm", "seeds", "judge", "features"),
    *("images", "real images", "bands", "code"),
)
"""What the measure is; the rest of a manifest says what is measured."""


def digest(value: Any) -> str:
    """A hash of JSON values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def manifest(result: AblationResult) -> dict[str, str]:
    """Everything that decides a number, beside the settings of its arm, each as a line of text."""
    source, groups = result.provenance, result.groups
    prompts = [[group.name, list(group.prompts)] for group in groups]
    count = sum(len(group.prompts) for group in groups)
    return {
        "prompts": f"{count} in {len(groups)} groups, sha256 {digest(prompts)}",
        "images of an arm": f"{sum(group.count for group in groups):,}",
        "seeds": ", ".join(map(str, result.seeds)),
        "judge": source.judge or "none",
        "features": result.method.get("features", "none"),
        "images": result.method.get("images", "not said"),
        "real images": "; ".join(f"{group.name}: {group.real}" for group in groups),
        "bands": result.method.get("bands", "not said"),
        "code": ", ".join(f"{name} {version}" for name, version in source.versions.items()),
        "checkpoint": source.checkpoint,
        "weights": f"fingerprint {source.fingerprint}" if source.fingerprint else "not said",
        "sampler": f"{source.sampler}, {source.num_steps} steps",
        "negative prompt": source.negative_prompt or "none (the null condition)",
        "config": f"sha256 {digest(dict(source.config))}",
    }


def differing(results: Sequence[AblationResult]) -> dict[str, list[str]]:
    """The lines of the manifests that are not the same in all results, each with what it is in every one."""
    found = [manifest(result) for result in results]
    names = list(found[0]) if found else []
    return {name: [each[name] for each in found] for name in names if len({each[name] for each in found}) > 1}


def measured_differently(differences: Mapping[str, list[str]]) -> list[str]:
    """Which of them make the numbers different measures, not measures of different things."""
    return [name for name in differences if name in MEASURE]
