"""LAION's aesthetic predictor (Schuhmann et al. 2022, LAION-5B): linear layers, one after the other, on the
unit image features of CLIP ViT-L/14, which give a mark from about 1 to 10.

The published file ``sac+logos+ava1-l14-linearMSE.pth`` names them ``layers.0`` to ``layers.7`` with dropout
in between, which does nothing here; there is no activation.
"""

import itertools
import re
from collections.abc import Callable

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.pretrained.format.pytorch import open_tensors

_LAYER = re.compile(r"layers\.(\d+)\.weight")

Scorer = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, " n"]]


def load_aesthetic(path: epath.PathLike) -> Scorer:
    """The predictor of a file: features of any length, which are brought to unit length, to marks.

    Raises:
        UserError: no such file, or one with other weights.
    """
    tensors = open_tensors(path)
    numbers = sorted(int(found[1]) for found in map(_LAYER.fullmatch, tensors) if found)
    names = [f"layers.{number}.{part}" for number in numbers for part in ("weight", "bias")]
    if not numbers or set(names) != set(tensors):
        raise UserError(
            f"{path} is no aesthetic predictor: it should hold linear layers (layers.0.weight, layers.0.bias,"
            " …) and nothing else"
        )
    layers = [
        tuple(np.asarray(tensors[f"layers.{number}.{part}"], np.float64) for part in ("weight", "bias"))
        for number in numbers
    ]
    widths = [weight.shape for weight, _ in layers]
    if widths[-1][0] != 1 or any(a[0] != b[1] for a, b in itertools.pairwise(widths)):
        raise UserError(f"{path}: its layers of shapes {widths} do not lead from features to one mark")

    def score(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        x = features.astype(np.float64)
        if x.shape[1] != widths[0][1]:
            raise UserError(
                f"the aesthetic predictor reads {widths[0][1]} features, and this CLIP gives {x.shape[1]}:"
                " give the one that it was trained on (ViT-L/14 for LAION's)"
            )
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        for weight, bias in layers:
            x = x @ weight.T + bias
        return x[:, 0]

    return score
