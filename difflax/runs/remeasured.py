"""Mixtures of two results of `difflax measure`: a number of one of them, with some of what it was measured of
or with as the other one has it.

Features are extracted once for each set of images, network and resize, and kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from difflax.core.types import UserError
from difflax.data.image_sets import ImageSet, open_images
from difflax.data.sources.base import data_directory
from difflax.data.texts import read_lines
from difflax.evaluation.ablation.manifests import digest
from difflax.evaluation.measuring.extraction import KeptMoments, Readings, read_images
from difflax.evaluation.measuring.measures import Compared, Measure, MeasureSettings
from difflax.evaluation.measuring.numbers import MeasuredNumber
from difflax.evaluation.measuring.reference import FEATURES, Reference, features_of, read_reference
from difflax.evaluation.measuring.resizing import RESIZES
from difflax.runs.feature_networks import WEIGHTS_OF, Networks, Places, open_networks
from difflax.runs.measure import REFERENCES

IMAGES_CAUSE, COUNT_CAUSE, PROMPTS_CAUSE = "images", "number of images", "prompts"
REFERENCE_CAUSE, RESIZE_CAUSE, WEIGHTS_CAUSE = "reference", "resize", "feature weights"
HEAD_CAUSE = "aesthetic predictor"

LEFT_OUT_GROUPS = 10
"""Groups of images that are left out in turn for a band: each costs as much as the number itself."""

ORDER_SEED = 0
"""Of the order in which images are left out, or taken where another result has fewer."""

Taken = Mapping[str, int]
"""By cause, which of the two results it is taken of; the first one's where it is not named."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Remeasured:
    """Two results, opened again.

    Attributes:
        sides: the number in each.
        cache: folder where the features of images are kept.
        open: the networks of the measures that read with each, as `open_networks`.
    """

    sides: tuple[MeasuredNumber, MeasuredNumber]
    cache: epath.Path
    open: Callable[[Mapping[str, Collection[str]], Places], Networks] = open_networks

    @property
    def measure(self) -> Measure:
        """What computes the number."""
        return self.sides[0].measure

    @functools.cached_property
    def _kept(self) -> dict[tuple, Any]:
        return {}

    def _once(self, key: tuple, make: Any) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def check(self) -> None:
        """Refuses a result whose images, reference, weights or prompts are not there any more.

        Raises:
            UserError: in one line, with the file of the result.
        """
        for number, side in enumerate(self.sides):
            self.images(number)
            if self.measure.network:
                found = self.networks(number, number, number).images[self.measure.network].fingerprint
                _same(side, "network", found)
            if self.measure.compares:
                _same(side, "reference", self.reference(number, number, number).fingerprint)
            if self.measure.asks:
                self.prompts(number)

    def images(self, number: int) -> ImageSet:
        """The images of one result, which are as they were."""
        side = self.sides[number]
        place = _place(side, "images")

        def make() -> tuple[ImageSet, str]:
            images = open_images(place, f"{side.file}: images")
            return images, images.fingerprint()

        images, fingerprint = self._once(("images", place), make)
        _same(side, "images", fingerprint)
        return images

    def prompts(self, number: int) -> list[str]:
        """The prompt of each image."""

        def make() -> list[str]:
            side = self.sides[number]
            found = read_lines(_place(side, "prompts"), f"{side.file}: prompts")
            _same(side, "prompts", digest(found))
            return found

        return self._once(("prompts", number), make)

    def networks(self, weights: int, resize: int, head: int) -> Networks:
        """What reads the images, of the weights of one result and the resize of another."""
        key, name = self.measure.network, self.sides[0].manifest["measure"]
        given = {WEIGHTS_OF[key]: self.sides[weights].of("network", "where")}
        if self.sides[head].of("head") is not None:
            given["aesthetic"] = self.sides[head].of("head", "where")
        places = Places(**given, resize=self.resize(resize))
        return self._once(("networks", places), lambda: self.open({key: [name]}, places))

    def resize(self, number: int) -> str:
        """Inception's resize by its name for users; that of other networks is their own."""
        named = {resize.name: key for key, resize in RESIZES.items()}
        return named.get(self.sides[number].of("resize", "name"), "clean")

    def reference(self, number: int, weights: int, resize: int) -> Reference:
        """What the images are compared with."""

        key, place = self.measure.network, _place(self.sides[number], "reference")
        networks = self.networks(weights, resize, 0).images

        def make() -> Reference:
            # Features of images spare the root of their covariance; a file of statistics may have none.
            statistics = self.measure.gaussian and epath.Path(place).suffix == ".npz"
            try:
                return read_reference(
                    place,
                    networks,
                    gaussians={key} if self.measure.gaussian else set(),
                    features=set() if statistics else {key},
                    batch_size=MeasureSettings().batch_size,
                    cache=data_directory(None) / REFERENCES,
                )
            except UserError as error:
                raise UserError(f"{self.sides[number].file}: {error}") from error

        return self._once(("reference", place, networks[key].fingerprint), make)

    def readings(self, images: int, weights: int, resize: int) -> Readings:
        """What is kept of all images of one result."""
        key, shown, size = self.measure.network, self.images(images), MeasureSettings().batch_size
        fingerprint = self.sides[images].of("images")
        if not key:
            names = [self.sides[0].manifest["measure"]]
            pixels = {"pixels": names, "batch_size": size}
            return self._once(("pixels", fingerprint), lambda: read_images(shown, {}, **pixels))
        network = self.networks(weights, resize, 0).images[key]

        def make() -> Readings:
            made = features_of(shown, fingerprint, network, True, size, self.cache)
            return Readings(count=len(shown), moments={}, features={key: made[FEATURES]}, columns={})

        return self._once(("features", fingerprint, network.fingerprint), make)

    def values(self, taken: Taken) -> Float[np.ndarray, " v"]:
        """The number of all images, and then with each group of them left out.

        Raises:
            UserError: too few images for it.
        """
        rows = self.rows(taken.get(IMAGES_CAUSE, 0), taken.get(COUNT_CAUSE, 0))
        groups = self.groups(taken, rows)
        values = [self._value(taken, rows)]
        for group in range(self.group_count):
            try:
                values.append(self._value(taken, rows[groups != group]))
            except UserError as error:
                raise UserError(f"with a part of the images left out, for the bands: {error}") from error
        return np.array(values)

    def rows(self, images: int, count: int) -> Int[np.ndarray, " n"]:
        """Which images are taken: all, or as many as the other result has."""
        held, asked = len(self.images(images)), len(self.images(count))
        order = np.random.default_rng(ORDER_SEED).permutation(held)
        return np.sort(order[: min(held, asked)])

    def groups(self, taken: Taken, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The group of each image; images of one prompt are in one."""
        clusters = self._clusters(taken, rows)
        number = len(np.unique(clusters))
        labels = np.arange(number) % max(self.group_count, 1)
        return np.random.default_rng(ORDER_SEED).permutation(labels)[clusters]

    @functools.cached_property
    def group_count(self) -> int:
        """How many groups all mixtures have; 0 where there are too few images for two."""
        fewest = min(self.cluster_counts)
        return min(LEFT_OUT_GROUPS, fewest) if fewest > 1 else 0

    @functools.cached_property
    def cluster_counts(self) -> tuple[int, int]:
        """Prompts of each result, or images where no prompts are read."""
        both = [({IMAGES_CAUSE: n, COUNT_CAUSE: n, PROMPTS_CAUSE: n}, self.rows(n, n)) for n in (0, 1)]
        one, other = [len(np.unique(self._clusters(taken, rows))) for taken, rows in both]
        return one, other

    def _clusters(self, taken: Taken, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        if not self.measure.asks:
            return np.arange(len(rows))
        prompts = np.array(self.prompts(taken.get(PROMPTS_CAUSE, taken.get(IMAGES_CAUSE, 0))))[rows]
        return np.unique(prompts, return_inverse=True)[1]

    def _value(self, taken: Taken, rows: Int[np.ndarray, " n"]) -> float:
        key, asks = self.measure.network, self.measure.asks
        images, weights, resize, head, real = (
            taken.get(cause, 0)
            for cause in (IMAGES_CAUSE, WEIGHTS_CAUSE, RESIZE_CAUSE, HEAD_CAUSE, REFERENCE_CAUSE)
        )
        read = self.readings(images, weights, resize)
        features = {key: column[rows] for key, column in read.features.items()}
        made = Readings(
            count=len(rows),
            moments={key: KeptMoments(features=held) for key, held in features.items()},
            features=features,
            columns={name: column[rows] for name, column in read.columns.items()},
        )
        networks = self.networks(weights, resize, head) if key else None
        reference = self.reference(real, weights, resize) if self.measure.compares else None
        compared = Compared(
            made=made,
            reference=reference,
            settings=self.settings(taken),
            clamp=self.resize(resize) == "clean",
            prompts=self._clusters(taken, rows) if asks else None,
            texts={key: self._texts(taken)[rows]} if asks else {},
            scales=networks.scales if networks else {},
            heads=networks.heads if networks else {},
        )
        return float(self.measure.compute(compared, key)[self.sides[0].name])

    def settings(self, taken: Taken) -> MeasureSettings:
        """Each as the result has it that it is taken of."""
        both = [side.manifest["settings"] for side in self.sides]
        return MeasureSettings(
            **{name: both[taken.get(name, 0)].get(name, value) for name, value in both[0].items()}
        )

    def _texts(self, taken: Taken) -> Float[np.ndarray, "n d"]:
        """Features of the prompt of each image."""
        number, weights = taken.get(PROMPTS_CAUSE, taken.get(IMAGES_CAUSE, 0)), taken.get(WEIGHTS_CAUSE, 0)

        def make() -> np.ndarray:
            unique, inverse = np.unique(self.prompts(number), return_inverse=True)
            encoder = self.networks(weights, 0, 0).texts[self.measure.network]
            return np.asarray(encoder.text_features(unique.tolist()))[inverse]

        return self._once(("texts", number, weights), make)


def _place(side: MeasuredNumber, part: str) -> str:
    """Where images or prompts are."""
    where = side.of(part, "where")
    if where.startswith("--"):
        raise UserError(
            f"{side.file}: its {part} were an array or a list, which cannot be opened again: measure a file"
        )
    return where


def _same(side: MeasuredNumber, part: str, found: str) -> None:
    if side.of(part) != found:
        raise UserError(
            f"{side.file}: {part} {side.of(part, 'where')}: what is there now is not what was measured:"
            " bring it back, or measure again"
        )
