"""What images are compared with: real images, or statistics that somebody computed of them.

Statistics are read from NumPy files by the names that clean-fid, torch-fidelity's users and ADM give them:
``mu`` and ``sigma`` of a Gaussian, ``feats`` of all images (clean-fid's for KID), and the images themselves
as ``arr_0``. Of an ADM file with both, the Gaussian is of the whole data set and ``arr_0`` a part of it: as
in ADM's evaluator the Gaussian serves the Fréchet distance and the images everything else. Its ``mu_s`` and
``sigma_s`` are of spatial features, which no measure here reads.

What is computed of images is kept under the fingerprint of the images and of the network.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Collection, Mapping

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.files import atomic_write
from difflax.core.types import UserError
from difflax.data.fingerprints import file_fingerprint
from difflax.data.image_sets import DECODING, FIRST_ARRAY, ImageSet, load_array, open_images
from difflax.evaluation import metrics as m
from difflax.evaluation.measuring.extraction import FeatureNetwork, KeptMoments, read_images

FEATURES = "feats"
"""clean-fid's name of features in a file."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """
    Attributes:
        where: as the user named it.
        fingerprint: of its contents.
        count: of its images; 0 where nobody knows.
        gaussians: of features, by the network's key.
        features: themselves, of the networks for which they were asked.
    """

    where: str
    fingerprint: str
    count: int
    gaussians: Mapping[str, m.GaussianFit]
    features: Mapping[str, Float[np.ndarray, "n _"]]


def read_reference(
    place: epath.PathLike | np.ndarray,
    networks: Mapping[str, FeatureNetwork],
    *,
    gaussians: Collection[str],
    features: Collection[str],
    batch_size: int,
    cache: epath.PathLike,
) -> Reference:
    """The reference at ``place``, a folder of pictures, a NumPy file, or an array of images.

    Args:
        networks: by key.
        gaussians: keys of the networks whose Gaussian is needed.
        features: keys of the networks whose features are needed.
        cache: folder where what is computed is kept.

    Raises:
        UserError: there is none, or it is of another network.
    """
    where = "--reference"
    found_gaussians: dict[str, m.GaussianFit] = {}
    found_features: dict[str, np.ndarray] = {}
    is_npz = not isinstance(place, np.ndarray) and epath.Path(place).suffix == ".npz"
    names: list[str] = []
    if is_npz:
        stored = load_array(epath.Path(place), where)
        names = list(stored.files)
        if {"mu", "sigma"} <= set(names):
            mean, covariance = _array(stored, "mu", place), _array(stored, "sigma", place)
            fit = m.gaussian_of(np.ravel(mean).astype(np.float64), covariance.astype(np.float64))
            found_gaussians = {key: fit for key in gaussians if networks[key].width == len(fit.mean)}
        if FEATURES in names:
            rows = _array(stored, FEATURES, place).astype(np.float32)
            found_features = {key: rows for key in features if networks[key].width == rows.shape[-1]}
    left = set(gaussians) - set(found_gaussians) | set(features) - set(found_features)
    if left and is_npz and FIRST_ARRAY not in names:
        raise UserError(_lacking(place, names, networks, left))
    count = max((len(rows) for rows in found_features.values()), default=0)
    if is_npz and not left:
        path = epath.Path(place)
        return Reference(
            where=str(path),
            fingerprint=file_fingerprint(path),
            count=count,
            gaussians=found_gaussians,
            features=found_features,
        )
    images = open_images(place, where)
    digest = images.fingerprint()
    for key in sorted(left):
        kept = key in features
        made = features_of(images, digest, networks[key], kept, batch_size, epath.Path(cache))
        if key in gaussians and key not in found_gaussians:
            found_gaussians[key] = _gaussian(made, kept)
        if kept:
            found_features.setdefault(key, made[FEATURES])
    return Reference(
        where=images.where,
        fingerprint=digest,
        count=len(images),
        gaussians=found_gaussians,
        features=found_features,
    )


def _lacking(
    place: epath.PathLike,
    names: Collection[str],
    networks: Mapping[str, FeatureNetwork],
    left: Collection[str],
) -> str:
    needed = ", ".join(f"{networks[key].name} ({networks[key].width} numbers)" for key in sorted(left))
    return (
        f"--reference={place} holds {', '.join(names) or 'nothing'}, and no features of {needed}, which these"
        " metrics need: give a folder of images"
    )


def _array(stored: Mapping[str, np.ndarray], name: str, place: epath.PathLike) -> np.ndarray:
    try:
        return stored[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--reference={place}: {name} cannot be read ({error}): fetch the file again"
        ) from error


def features_of(
    images: ImageSet,
    digest: str,
    network: FeatureNetwork,
    keep: bool,
    batch_size: int,
    cache: epath.Path,
) -> dict[str, np.ndarray]:
    """What a network makes of images, computed once for both: ``mu`` and ``sigma`` of the features, ``count``
    of the images, and ``feats`` themselves if they are to be kept.

    Args:
        digest: the images' fingerprint.
    """
    facts = "\n".join([digest, network.fingerprint, DECODING])
    path = cache / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.npz"
    stored = _stored(path)
    if not {"mu", "sigma", "count", *([FEATURES] if keep else [])} <= set(stored):
        read = read_images(images, {"": network}, keep=[""] if keep else [], batch_size=batch_size)
        moments = read.moments[""]
        stored = {"mu": moments.mean, "sigma": moments.covariance, "count": np.array(read.count)}
        if keep:
            stored[FEATURES] = read.features[""]
        with atomic_write(path) as file:
            np.savez(file, **stored)
    return stored


def _gaussian(made: Mapping[str, np.ndarray], kept: bool) -> m.GaussianFit:
    """Of what `features_of` made; of kept features that are fewer than they are wide, without their
    covariance.
    """
    if kept and len(made[FEATURES]) <= len(made["mu"]):
        return KeptMoments(features=made[FEATURES]).fit()
    return m.gaussian_of(made["mu"], made["sigma"], int(made["count"]))


def _stored(path: epath.Path) -> dict[str, np.ndarray]:
    """What was kept, nothing where it is not there or damaged: then it is computed again."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}
