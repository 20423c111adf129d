"""A network made worse on purpose, which guidance goes away from.

A layer that can be perturbed has an attribute ``perturbation``, ``None`` in ordinary use, and says in its
call what each kind does to it. A ``Perturbation`` finds such layers by their path in a merged module, so
nothing is passed through the network.
"""

import dataclasses
import math
import re
from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from difflax.core.filters import gaussian_blur
from difflax.core.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturbation:
    """What is done to which layers.

    Attributes:
        kind: ``"identity"``: self-attention where every token sees itself alone (PAG, Ahn et al.,
            arXiv:2403.17377, eq. 16); ``"blur"``: its queries blurred over the image, which smooths the
            attention's energy (SEG, Hong, arXiv:2408.00760, section 4.2); ``"skip"``: the transformer block
            left out (skip-layer guidance of Stable Diffusion 3.5).
        layers: a regular expression that is searched in a layer's path, for instance ``"mid_block"`` or
            ``"down_blocks/2"``.
        blur: standard deviation in tokens; infinite is the mean query.
    """

    kind: Literal["identity", "blur", "skip"] = "identity"
    layers: str = "mid_block"
    blur: float = math.inf

    def __post_init__(self):
        try:
            re.compile(self.layers)
        except re.error as error:
            raise ValueError(
                f"perturbation.layers = {self.layers!r} is no regular expression: {error}"
            ) from error
        if not self.blur > 0:
            raise ValueError(f"perturbation.blur must be positive, got {self.blur}")

    def put_into(self, module: nnx.Module) -> None:
        """Marks the layers of a merged module.

        Raises:
            UserError: no layer that this kind can act on has such a path.
        """
        able = []
        for parts, layer in nnx.iter_modules(module):
            if self.kind in getattr(layer, "perturbable", ()):
                able.append("/".join(map(str, parts)))
                if re.search(self.layers, able[-1]):
                    layer.perturbation = self
        if not any(re.search(self.layers, path) for path in able):
            some = ", ".join(sorted(able)[:4]) or "none"
            raise UserError(
                f"perturbation.layers = {self.layers!r} matches no layer that can be perturbed by"
                f" {self.kind!r}; there are {some}{', …' if len(able) > 4 else ''}"
            )

    def blur_tokens(
        self, tokens: Float[Array, "b n heads d"], grid: tuple[int, int]
    ) -> Float[Array, "b n heads d"]:
        """``tokens`` blurred over the image of ``grid`` tokens that they form."""
        image = tokens.reshape(tokens.shape[0], *grid, -1)
        return gaussian_blur(image, self.blur).reshape(tokens.shape)
