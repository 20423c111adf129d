"""One number of a result of `difflax measure` with its manifest, read back from the file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.core.documents import entry, read_json
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.evaluation.measuring.measures import MEASURES, Measure

MANIFESTS = "manifests"
AGAIN = "measure again"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredNumber:
    """
    Attributes:
        file: that it was read from.
        name: in the result, ``precision``.
        value: that was measured.
        manifest: what it was computed of and how.
    """

    file: str
    name: str
    value: float
    manifest: Mapping[str, Any]

    @property
    def measure(self) -> Measure:
        """What computed it."""
        return MEASURES[self.manifest["measure"]]

    def of(self, part: str, name: str = "fingerprint") -> Any:
        """An entry of a part of the manifest, ``None`` where there is no such part."""
        return self.manifest.get(part, {}).get(name)


def read_numbers(file: epath.PathLike) -> dict[str, MeasuredNumber]:
    """The numbers of a result of `difflax measure`, by name.

    Raises:
        UserError: it is none, or of a version that did not note where weights and prompts are.
    """
    document = read_json(file, hint=AGAIN)
    try:
        manifests = entry(document, MANIFESTS, dict)
        names = [name for name in document if name != MANIFESTS]
        found = {name: (entry(document, name, float), entry(manifests, name, dict)) for name in names}
    except ValueError as error:
        raise UserError(f"{file} is no result of `difflax measure`: it {error}") from error
    return {
        name: MeasuredNumber(file=str(file), name=name, value=value, manifest=_whole(file, name, manifest))
        for name, (value, manifest) in found.items()
    }


def _whole(file: epath.PathLike, name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest in which nothing is missing that its measure needs."""
    where = f"{file}: the manifest of {name}"
    if "measure" not in manifest:
        raise UserError(f"{where} does not say how it was measured: {AGAIN} with this version")
    one = choose(MEASURES, manifest["measure"], where)
    parts = {"images": True, "network": bool(one.network), "resize": bool(one.network)}
    parts |= {"reference": one.compares, "prompts": one.asks, "settings": True}
    for part in (part for part, needed in parts.items() if needed):
        try:
            held = entry(manifest, part, dict)
            if part in ("images", "network", "reference", "prompts"):
                entry(held, "where", str), entry(held, "fingerprint", str)
        except ValueError as error:
            raise UserError(f"{where} {error}: {AGAIN} with this version") from error
    return manifest
