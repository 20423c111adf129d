"""The measures by the names that a user gives: what each reads, and how it becomes numbers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
from jaxtyping import Float, Int

from difflax.core.bounds import Count, Range
from difflax.core.types import UserError
from difflax.evaluation import metrics as m
from difflax.evaluation.measuring.extraction import PIXEL_METRICS, Readings
from difflax.evaluation.measuring.reference import Reference


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """What measures depend on beside the images.

    Attributes:
        seed: of the subsets of kid and fid_infinity; torch-fidelity's is 2020.
        kid_subsets: subsets that kid draws.
        kid_subset_size: images of each subset; fewer images are refused with --resize=legacy, as in
            torch-fidelity, and make smaller subsets with clean, as in clean-fid.
        nearest: neighbour that the balls of prdc reach to.
        smallest: images of the first part of fid_infinity.
        trace: how the Fréchet distance's last term is computed: factors is exact, eigenvalues is
            torch-fidelity's form, sqrtm clean-fid's.
        batch_size: images in one call of a network.
    """

    seed: Annotated[int, Range(0, 2**32 - 1)] = 2020
    kid_subsets: Count = 100
    kid_subset_size: Annotated[int, Range(2, 2**31 - 1)] = 1000
    nearest: Count = 5
    smallest: Annotated[int, Range(2, 2**31 - 1)] = 5000
    trace: str = "factors"
    batch_size: Count = 64

    def __post_init__(self):
        if self.trace not in tuple(m.TRACES):
            raise UserError(f"trace={self.trace!r}: choose one of {', '.join(m.TRACES)}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """Everything that a measure may read.

    Attributes:
        made: the images that are measured.
        reference: what they are compared with.
        settings: of all measures.
        clamp: of KID, see `kernel_distance`.
        prompts: which prompt each image is of.
        texts: features of each image's prompt, by the network's key.
        scales: the factor before the cosines and what is added, of encoders of images and texts.
        heads: further numbers of the network's features, by the measure's name.
    """

    made: Readings
    reference: Reference | None
    settings: MeasureSettings
    clamp: bool
    prompts: Int[np.ndarray, " n"] | None
    texts: Mapping[str, Float[np.ndarray, "n _"]]
    scales: Mapping[str, tuple[float, float]]
    heads: Mapping[str, Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, " n"]]]


Compute = Callable[[Compared, str], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """
    Attributes:
        compute: ``compute(comparison, network key)``, the numbers by their names in the result.
        network: key of the network that reads the images; "": the measure reads pixels.
        keeps: it reads the features of all images, and not their mean and covariance alone.
        compares: it needs a reference.
        gaussian: of the reference it reads mean and covariance, and not the features.
        asks: it needs the prompts.
        says: what it is, for the help.
        settings: names of the settings that it depends on.
    """

    compute: Compute
    network: str = ""
    keeps: bool = False
    compares: bool = False
    gaussian: bool = False
    asks: bool = False
    says: str
    settings: tuple[str, ...] = ()


def _frechet(name: str) -> Compute:
    def compute(given: Compared, key: str) -> dict[str, float]:
        made, real = given.made.moments[key].fit(), given.reference.gaussians[key]
        return {name: m.frechet_distance(made, real, trace=given.settings.trace)}

    return compute


def _frechet_infinity(given: Compared, key: str) -> dict[str, float]:
    found = m.frechet_infinity(
        given.made.features[key],
        given.reference.gaussians[key],
        seed=given.settings.seed,
        smallest=given.settings.smallest,
        trace=given.settings.trace,
    )
    return {"fid_infinity": found.value, "fid_infinity_slope": found.slope}


def _kid(given: Compared, key: str) -> dict[str, float]:
    found = m.kernel_distance(
        given.made.features[key],
        given.reference.features[key],
        subsets=given.settings.kid_subsets,
        size=given.settings.kid_subset_size,
        seed=given.settings.seed,
        clamp=given.clamp,
    )
    return {"kid": found.mean, "kid_std": found.deviation}


def _cmmd(given: Compared, key: str) -> dict[str, float]:
    return {"cmmd": m.cmmd(given.made.features[key], given.reference.features[key])}


def _prdc(ending: str) -> Compute:
    def compute(given: Compared, key: str) -> dict[str, float]:
        found = m.compare_manifolds(
            given.made.features[key], given.reference.features[key], nearest=given.settings.nearest
        )
        return {f"{name}{ending}": value for name, value in dataclasses.asdict(found).items()}

    return compute


def _vendi(name: str) -> Compute:
    return lambda given, key: {name: m.vendi_score(given.made.features[key])}


def _diversity(given: Compared, key: str) -> dict[str, float]:
    prompts = np.unique_counts(given.prompts)
    several = np.isin(given.prompts, prompts.values[prompts.counts > 1])
    if not several.any():
        raise UserError("diversity compares images of one prompt, and no prompt has two: give more of each")
    distances = m.feature_diversity(given.made.features[key][several], given.prompts[several])
    return {"diversity": float(distances.mean())}


def _score(name: str) -> Compute:
    def compute(given: Compared, key: str) -> dict[str, float]:
        return {name: float(m.clip_score(given.made.features[key], given.texts[key]).mean())}

    return compute


def _cosines(given: Compared, key: str) -> Float[np.ndarray, " n"]:
    return m.cosines(given.made.features[key], given.texts[key])


def _siglip_probability(given: Compared, key: str) -> dict[str, float]:
    scale, bias = given.scales[key]
    return {"siglip_probability": float(np.mean(1 / (1 + np.exp(-(scale * _cosines(given, key) + bias)))))}


def _pick_score(given: Compared, key: str) -> dict[str, float]:
    return {"pick_score": float(given.scales[key][0] * _cosines(given, key).mean())}


def _hps(given: Compared, key: str) -> dict[str, float]:
    return {"hps_v2": float(_cosines(given, key).mean())}


def _aesthetic(given: Compared, key: str) -> dict[str, float]:
    return {"aesthetic": float(given.heads["aesthetic"](given.made.features[key]).mean())}


def _pixels(name: str) -> Compute:
    return lambda given, key: {name: float(given.made.columns[name].mean())}


_REFERRED = {"keeps": True, "compares": True}
_BY_GAUSSIAN = {"compares": True, "gaussian": True}
_ASKED = {"keeps": True, "asks": True}

MEASURES: dict[str, Measure] = {
    "fid": Measure(
        compute=_frechet("fid"),
        network="inception",
        **_BY_GAUSSIAN,
        says="Fréchet distance",
        settings=("trace",),
    ),
    "fid_infinity": Measure(
        compute=_frechet_infinity,
        network="inception",
        keeps=True,
        **_BY_GAUSSIAN,
        says="Fréchet distance of infinitely many images, by extrapolation",
        settings=("seed", "smallest", "trace"),
    ),
    "kid": Measure(
        compute=_kid,
        network="inception",
        **_REFERRED,
        says="kernel distance",
        settings=("seed", "kid_subsets", "kid_subset_size"),
    ),
    "prdc": Measure(
        compute=_prdc(""),
        network="inception",
        **_REFERRED,
        says="precision, recall, density, coverage",
        settings=("nearest",),
    ),
    "fd_dino": Measure(
        compute=_frechet("fd_dino"),
        network="dino",
        **_BY_GAUSSIAN,
        says="Fréchet distance",
        settings=("trace",),
    ),
    "prdc_dino": Measure(
        compute=_prdc("_dino"),
        network="dino",
        **_REFERRED,
        says="precision, recall, density, coverage",
        settings=("nearest",),
    ),
    "fd_clip": Measure(
        compute=_frechet("fd_clip"),
        network="clip",
        **_BY_GAUSSIAN,
        says="Fréchet distance between unit vectors",
        settings=("trace",),
    ),
    "cmmd": Measure(compute=_cmmd, network="cmmd", **_REFERRED, says="CLIP maximum mean discrepancy"),
    "vendi": Measure(
        compute=_vendi("vendi"), network="inception", keeps=True, says="Vendi score, how many differ"
    ),
    "vendi_dino": Measure(
        compute=_vendi("vendi_dino"), network="dino", keeps=True, says="Vendi score, how many differ"
    ),
    "diversity": Measure(
        compute=_diversity, network="clip", **_ASKED, says="mean cosine distance within a prompt"
    ),
    "clip_score": Measure(compute=_score("clip_score"), network="clip", **_ASKED, says="100 × cosine"),
    "siglip_score": Measure(compute=_score("siglip_score"), network="siglip", **_ASKED, says="100 × cosine"),
    "siglip_probability": Measure(
        compute=_siglip_probability, network="siglip", **_ASKED, says="that image and prompt belong together"
    ),
    "pick_score": Measure(compute=_pick_score, network="clip", **_ASKED, says="PickScore, with its own CLIP"),
    "hps_v2": Measure(compute=_hps, network="clip", **_ASKED, says="HPSv2, with its own CLIP"),
    "aesthetic": Measure(compute=_aesthetic, network="clip", keeps=True, says="LAION's aesthetic predictor"),
    **{name: Measure(compute=_pixels(name), says="mean over the images' pixels") for name in PIXEL_METRICS},
}
