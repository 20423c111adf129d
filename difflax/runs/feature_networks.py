"""The networks that measures read images with, from the files and folders that a user names."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.spelling import choose
from difflax.core.types import Params, UserError
from difflax.data.fingerprints import arrays_fingerprint
from difflax.evaluation.measuring.extraction import FeatureNetwork
from difflax.evaluation.measuring.resizing import CENTRE_SQUARE, RESIZES, SHORTER_EDGE, Resize
from difflax.models.functional import Functional
from difflax.models.inception import INCEPTION_SIZE, INCEPTION_WIDTH
from difflax.pretrained.components.clip import load_clip
from difflax.pretrained.components.inception import inception_network, load_inception
from difflax.pretrained.format.hub import download
from difflax.text.joint import CLIP

Pixels = Float[Array, "b s s 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where the weights are; ``None`` where a network is not given.

    Attributes:
        inception: file of FID's Inception.
        clip: folder or Hub id of a CLIP in transformers' layout.
        resize: of Inception, one of `RESIZES`.
    """

    inception: str | None = None
    clip: str | None = None
    resize: str = "clean"

    def __post_init__(self):
        choose(RESIZES, self.resize, "resize")

    def of(self, name: str, users: Collection[str]) -> str:
        """The place of the weights that a flag names.

        Raises:
            UserError: it was not given.
        """
        given = getattr(self, name)
        if given is None:
            raise UserError(
                f"{', '.join(users)}: give --{name} with the weights of the network that reads images"
            )
        return given


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """
    Attributes:
        images: what reads images, by the keys of the measures' networks.
        texts: what reads their prompts, by the same keys: an encoder with ``text_features``.
        scales: the factor before the cosines of image and text, and what is added.
    """

    images: Mapping[str, FeatureNetwork]
    texts: Mapping[str, Any]
    scales: Mapping[str, tuple[float, float]]


def open_networks(users: Mapping[str, Collection[str]], places: Places) -> Networks:
    """The networks that measures need.

    Args:
        users: the measures that read with each network, by its key.
        places: of the weights.

    Raises:
        UserError: weights that are not given, not there, or of another network.
    """
    images: dict[str, FeatureNetwork] = {}
    texts: dict[str, Any] = {}
    scales: dict[str, tuple[float, float]] = {}
    if "inception" in users:
        images["inception"] = _inception(places.of("inception", users["inception"]), places.resize)
    of_clip = {"clip": SHORTER_EDGE, "cmmd": CENTRE_SQUARE}
    if wanted := [key for key in of_clip if key in users]:
        place = places.of("clip", [name for key in wanted for name in users[key]])
        clip = load_clip(download(place))
        images |= {key: _clip_images(clip, place, of_clip[key]) for key in wanted}
        texts |= dict.fromkeys(wanted, clip)
        scales |= dict.fromkeys(wanted, (float(jnp.exp(clip.params["logit_scale"])), 0.0))
    return Networks(images=images, texts=texts, scales=scales)


def _inception(place: str, resize: str) -> FeatureNetwork:
    params, chosen = load_inception(place), RESIZES[resize]
    return FeatureNetwork(
        name="Inception-v3 of FID, 2048 pooled features",
        resize=chosen,
        size=INCEPTION_SIZE,
        run=inception_network().apply,
        params=params,
        width=INCEPTION_WIDTH,
        fingerprint=arrays_fingerprint(params, chosen.name),
    )


def _clip_images(clip: CLIP, place: str, resize: Resize) -> FeatureNetwork:
    pixels = clip.pixels
    return FeatureNetwork(
        name=f"CLIP image features of {place}, {pixels.size} pixels, unit norm",
        resize=resize,
        size=pixels.size,
        run=_normalized(clip.network, "get_image_features", pixels.mean, pixels.std),
        params=clip.params,
        width=clip.config.projection_dim,
        fingerprint=arrays_fingerprint(clip.params, clip.config, pixels, resize.name),
    )


def _normalized(
    network: Functional, method: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Params, Pixels], Float[Array, "b d"]]:
    """A network's method of pixels in [0, 255], whose channels get its mean and deviation first."""

    def run(params: Params, pixels: Pixels) -> Float[Array, "b d"]:
        inputs = (pixels / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
        return network.apply(params, inputs, method=method)

    return run
