"""Features of many images: read and resized by threads, computed batch by batch in one compiled program for
each network, each batch split over the devices. Of the images, two batches are in memory.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from difflax.core.types import Params, UserError
from difflax.data.image_sets import ImageSet
from difflax.evaluation import metrics as m
from difflax.evaluation.measuring.resizing import Resize
from difflax.parallel.sharding import MeshShape, batch_sharding, put

PIXEL_METRICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "saturation": m.hsv_saturation,
    "contrast": m.contrast,
    "clipped": m.clipped_fraction,
}
"""Of each image at its own size."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureNetwork:
    """What reads images.

    Attributes:
        name: in results.
        resize: images to its input.
        size: edge of the input, in pixels.
        run: ``run(params, pixels [b, s, s, 3] in [0, 255]) -> features [b, d]``, pure.
        params: its parameters.
        width: of its features.
        fingerprint: of its weights and of all else that decides the features.
    """

    name: str
    resize: Resize
    size: int
    run: Callable[[Params, Float[Array, "b s s 3"]], Float[Array, "b d"]]
    params: Params
    width: int
    fingerprint: str

    @functools.cached_property
    def program(self) -> Callable[[Params, Float[Array, "b s s 3"]], Float[Array, "b d"]]:
        return jax.jit(self.run)


@runtime_checkable
class Moments(Protocol):
    """What a Gaussian is fitted to."""

    def fit(self) -> m.GaussianFit:
        """The Gaussian.

        Raises:
            UserError: of fewer than two images.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeptMoments:
    """The moments of features that are kept: of fewer vectors than numbers in one, no covariance is made."""

    features: Float[np.ndarray, "n d"]

    def fit(self) -> m.GaussianFit:
        """See `Moments`."""
        if len(self.features) < 2:
            raise UserError(f"a Fréchet distance needs at least 2 images, and here is {len(self.features)}")
        return m.fit_gaussian(self.features)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """What is kept of a set of images.

    Attributes:
        count: of the images.
        moments: of the features, by the network's key.
        features: themselves, of the networks for which they were asked.
        columns: a number an image, by name of `PIXEL_METRICS`.
    """

    count: int
    moments: Mapping[str, Moments]
    features: Mapping[str, Float[np.ndarray, "n _"]]
    columns: Mapping[str, Float[np.ndarray, " n"]]


def read_images(
    images: ImageSet,
    networks: Mapping[str, FeatureNetwork],
    *,
    keep: Sequence[str] = (),
    pixels: Sequence[str] = (),
    batch_size: int,
    devices: Sequence[Any] | None = None,
) -> Readings:
    """Reads all images once.

    Args:
        networks: by key.
        keep: keys of the networks whose features are kept, and not their mean and covariance alone.
        pixels: names of `PIXEL_METRICS`.
        batch_size: images in one call of a network, fewer where there are not so many.
        devices: that share the work, all of this process by default.

    Raises:
        UserError: an image that cannot be read, or whose features are not finite.
    """
    mesh = MeshShape().make(jax.local_devices() if devices is None else devices)
    shares = mesh.size
    batch_size = -(-min(batch_size, len(images)) // shares) * shares
    everywhere, split = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    params = {key: put(network.params, everywhere) for key, network in networks.items()}
    moments = {key: m.RunningMoments(network.width) for key, network in networks.items()}
    kept: dict[str, list[np.ndarray]] = {key: [] for key in keep}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in pixels}
    count = 0

    def prepared(item: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        image = images.pixels(item)
        inputs = {key: network.resize.apply(image, network.size) for key, network in networks.items()}
        scaled = image[None].astype(np.float32) / np.float32(255)
        return inputs, {name: PIXEL_METRICS[name](scaled) for name in pixels}

    for batch in _batches(images, prepared, batch_size):
        for key, network in networks.items():
            inputs = np.stack([inputs[key] for inputs, _ in batch])
            # Filled up, so that one program is compiled.
            filled = np.concatenate([inputs, np.repeat(inputs[-1:], batch_size - len(batch), axis=0)])
            features = np.asarray(network.program(params[key], put(filled, split)))[: len(batch)]
            _check(features, images, count, network.name)
            moments[key].update(features)
            if key in kept:
                kept[key].append(features)
        for name, column in columns.items():
            column += [values[name] for _, values in batch]
        count += len(batch)
    return Readings(
        count=count,
        moments=moments,
        features={key: np.concatenate(parts) for key, parts in kept.items()},
        columns={name: np.concatenate(parts) for name, parts in columns.items()},
    )


def _check(features: Float[np.ndarray, "n d"], images: ImageSet, first: int, network: str) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise UserError(
            f"{images.where}: the features of image {first + bad[0]} by {network} are not finite: look at the"
            " image and at the weights"
        )


def _batches(images: ImageSet, work: Callable[[Any], Any], batch_size: int) -> Iterator[list[Any]]:
    """What ``work`` makes of the images, in their order; threads are a batch ahead."""
    waiting: collections.deque = collections.deque()
    rest = iter(images)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            while True:
                ahead = 2 * batch_size - len(waiting)
                waiting += [pool.submit(work, item) for item in itertools.islice(rest, ahead)]
                if not waiting:
                    return
                yield [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
        finally:
            for future in waiting:
                future.cancel()
