"""The networks that measures read images with, from the files and folders that a user names."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.spelling import choose
from difflax.core.types import Params, UserError
from difflax.data.fingerprints import arrays_fingerprint
from difflax.evaluation.measuring.extraction import FeatureNetwork
from difflax.evaluation.measuring.resizing import CENTRE_SQUARE, RESIZES, SHORTER_EDGE, SQUARE, Resize
from difflax.models.dinov2 import DINO_SIZE, IMAGENET_MEAN, IMAGENET_STD
from difflax.models.functional import Functional
from difflax.models.inception import INCEPTION_SIZE, INCEPTION_WIDTH
from difflax.pretrained.components.aesthetic import load_aesthetic
from difflax.pretrained.components.clip import load_clip
from difflax.pretrained.components.dinov2 import dinov2_network, load_dinov2
from difflax.pretrained.components.inception import inception_network, load_inception
from difflax.pretrained.components.siglip import load_siglip
from difflax.pretrained.format.hub import download
from difflax.text.joint import CLIP
from difflax.text.siglip import SigLIP, siglip_network

Pixels = Float[Array, "b s s 3"]


WEIGHTS_OF = {"inception": "inception", "clip": "clip", "cmmd": "clip", "dino": "dino", "siglip": "siglip"}
"""Which of `Places` each network is loaded from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where the weights are; ``None`` where a network is not given.

    Attributes:
        inception: file of FID's Inception.
        clip: folder or Hub id of a CLIP in transformers' layout.
        dino: folder or Hub id of a DINOv2 in transformers' layout.
        siglip: folder or Hub id of a SigLIP in transformers' layout.
        aesthetic: file of LAION's aesthetic predictor.
        resize: of Inception, one of `RESIZES`.
    """

    inception: str | None = None
    clip: str | None = None
    dino: str | None = None
    siglip: str | None = None
    aesthetic: str | None = None
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
        heads: what makes further numbers of a network's features, by the measure's name.
    """

    images: Mapping[str, FeatureNetwork]
    texts: Mapping[str, Any]
    scales: Mapping[str, tuple[float, float]]
    heads: Mapping[str, Any]


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
        scales |= dict.fromkeys(wanted, (math.exp(float(clip.params["logit_scale"])), 0.0))
    if "dino" in users:
        images["dino"] = _dino(places.of("dino", users["dino"]))
    if "siglip" in users:
        place = places.of("siglip", users["siglip"])
        siglip = load_siglip(download(place))
        images["siglip"], texts["siglip"] = _siglip_images(siglip, place), siglip
        scale, bias = (float(siglip.params[name][0]) for name in ("logit_scale", "logit_bias"))
        scales["siglip"] = (math.exp(scale), bias)
    heads = {}
    if "aesthetic" in users.get("clip", ()):
        heads["aesthetic"] = load_aesthetic(places.of("aesthetic", ["aesthetic"]))
    return Networks(images=images, texts=texts, scales=scales, heads=heads)


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


def _siglip_images(siglip: SigLIP, place: str) -> FeatureNetwork:
    size = siglip.config.vision_config.image_size
    half = (0.5, 0.5, 0.5)
    return FeatureNetwork(
        name=f"SigLIP image features of {place}, {size} pixels, unit norm",
        resize=SQUARE,
        size=size,
        run=_normalized(siglip_network(siglip.config), "get_image_features", half, half),
        params=siglip.params,
        width=siglip.config.projection_size,
        fingerprint=arrays_fingerprint(siglip.params, siglip.config, SQUARE.name),
    )


def _dino(place: str) -> FeatureNetwork:
    config, params = load_dinov2(download(place))
    return FeatureNetwork(
        name=f"DINOv2 class token of {place}, interpolate_offset={config.interpolate_offset}",
        resize=SQUARE,
        size=DINO_SIZE,
        run=_normalized(dinov2_network(config), "__call__", IMAGENET_MEAN, IMAGENET_STD),
        params=params,
        width=config.hidden_size,
        fingerprint=arrays_fingerprint(params, config, DINO_SIZE, SQUARE.name),
    )


def _normalized(
    network: Functional, method: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Params, Pixels], Float[Array, "b d"]]:
    """A network's method of pixels in [0, 255], whose channels get its mean and deviation first."""

    def run(params: Params, pixels: Pixels) -> Float[Array, "b d"]:
        inputs = (pixels / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
        return network.apply(params, inputs, method=method)

    return run
