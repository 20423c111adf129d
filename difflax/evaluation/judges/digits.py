"""Reads a handwritten digit off an image: a support vector machine of scikit-learn trained on real ones."""

import functools

import numpy as np
from jaxtyping import Float, Int, UInt8

from difflax.data import digits


@functools.cache
def classifier():
    """``SVC(C=10, gamma=0.001)`` on the grey levels of the training digits, see `difflax.data.digits`."""
    from sklearn.svm import SVC

    images, labels = digits.load("train")
    return SVC(C=10, gamma=0.001).fit(_grey_levels(images), labels)


def read(images: UInt8[np.ndarray, "n 8 8 1"] | Float[np.ndarray, "n 8 8 1"]) -> Int[np.ndarray, " n"]:
    """The digit in each image; floats are in [0, 1]."""
    return classifier().predict(_grey_levels(images))


def accuracy(
    images: UInt8[np.ndarray, "n 8 8 1"] | Float[np.ndarray, "n 8 8 1"], captions: list[str]
) -> dict[str, Float[np.ndarray, " n"]]:
    """``accuracy``: 1 where the digit that the caption names is read, else 0."""
    wanted = np.asarray([digits.parse_caption(caption) for caption in captions])
    return {"accuracy": (read(images) == wanted).astype(np.float64)}


def _grey_levels(images: np.ndarray) -> Float[np.ndarray, "n 64"]:
    unit = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
    return unit.reshape(len(images), -1) * digits.GREY_LEVELS
