"""What an adapter adds to a layer's kernel: one frozen dataclass a method, for merging and training alike.

Kernels ``K`` are as in the rest of difflax: [inputs, outputs], a convolution's [height, width, inputs,
outputs]; the papers' ``W`` is ``K`` transposed. With ``s`` the strength (``alpha / rank`` times a user's
weight), ``⊙`` the product of entries and ``⊗`` Kronecker's:

=============  ================================================================================
`LowRank`      ``s · D U``: LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1);
               with a core ``T`` between them, ``s · Σ_ij D_i T_ij U_j``, a Tucker decomposition
`Hadamard`     ``s · (D₁ U₁) ⊙ (D₂ U₂)``: LoHa (Hyeon-Woo et al. 2021,
               https://arxiv.org/abs/2108.06098, proposition 1)
`Kronecker`    ``s · A ⊗ B``, each whole or of low rank: LoKr (Yeh et al. 2023,
               https://arxiv.org/abs/2309.14859, section 3.2)
`Difference`   ``s · Δ``: the whole difference
`Decomposed`   ``m (K + Δ) / |K + Δ| − K`` with another change's ``Δ``: DoRA (Liu et al. 2024,
               https://arxiv.org/abs/2402.09353, equation 5)
=============  ================================================================================
"""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray
"""Files' factors stay on the host until they are used."""


class WeightChange(abc.ABC):
    """A change of a kernel."""

    @property
    @abc.abstractmethod
    def rank(self) -> int | None:
        """What files divide their ``alpha`` by; ``None`` where the method has none."""

    @abc.abstractmethod
    def added(self, kernel: Float[AnyArray, "*shape"], strength: Any) -> Float[Array, "*shape"]:
        """What is added to a kernel, float32.

        Args:
            strength: ``s``, a number or a scalar array.
        """


class Linear(WeightChange):
    """A change that does not depend on the kernel, and is proportional to the strength."""

    @abc.abstractmethod
    def unscaled(self) -> Float[Array, "*shape"]:
        """The change at strength 1, float32."""

    def added(self, kernel: Float[AnyArray, "*shape"], strength: Any) -> Float[Array, "*shape"]:
        return strength * self.unscaled()


@dataclasses.dataclass(frozen=True)
class LowRank(Linear):
    """Two factors.

    Attributes:
        down: [*window, inputs, rank]; where there is a core, of window 1 × 1.
        up: [*1, rank, outputs].
        core: [*window, rank, rank], from ``down``'s to ``up``'s.
    """

    down: Float[AnyArray, "... i r"]
    up: Float[AnyArray, "... r o"]
    core: Float[AnyArray, "... r r"] | None = None

    @property
    def rank(self) -> int | None:
        return self.up.shape[-2]

    def unscaled(self) -> Float[Array, "*shape"]:
        down, up = _float(self.down), _float(self.up)
        up = up.reshape(up.shape[-2:])
        if self.core is not None:
            down = jnp.matmul(down, _float(self.core), precision="highest")
        return jnp.matmul(down, up, precision="highest")


@dataclasses.dataclass(frozen=True)
class Hadamard(Linear):
    """Two changes of low rank, multiplied entry by entry."""

    first: LowRank
    second: LowRank

    @property
    def rank(self) -> int | None:
        return self.first.rank

    def unscaled(self) -> Float[Array, "*shape"]:
        return self.first.unscaled() * self.second.unscaled()


@dataclasses.dataclass(frozen=True)
class Difference(Linear):
    """A whole kernel's, norm's or bias's difference."""

    array: Float[AnyArray, "..."]

    @property
    def rank(self) -> int | None:
        return None

    def unscaled(self) -> Float[Array, "..."]:
        return _float(self.array)


@dataclasses.dataclass(frozen=True)
class Kronecker(Linear):
    """A small matrix of blocks, each the same kernel times an entry.

    Attributes:
        blocks: [i1, o1], whole or of low rank.
        block: [*window, i2, o2], whole or of low rank.
    """

    blocks: LowRank | Difference
    block: LowRank | Difference

    @property
    def rank(self) -> int | None:
        """The block's where both have one, as LyCORIS counts."""
        return self.block.rank or self.blocks.rank

    def unscaled(self) -> Float[Array, "*shape"]:
        block, blocks = self.block.unscaled(), self.blocks.unscaled()
        return jnp.kron(blocks.reshape(*[1] * (block.ndim - 2), *blocks.shape), block)


@dataclasses.dataclass(frozen=True)
class Decomposed(WeightChange):
    """Directions changed by another change, and lengths of their own.

    Attributes:
        change: of the directions; the strength is its alone, as in peft: at strength 0 the lengths stay
            those of the file.
        magnitude: the lengths, [outputs], or [inputs] where ``of_inputs``.
        of_inputs: a length belongs to an input's column of the kernel and not to an output's.
    """

    change: Linear
    magnitude: Float[AnyArray, " n"]
    of_inputs: bool = False

    @property
    def rank(self) -> int | None:
        return self.change.rank

    def added(self, kernel: Float[AnyArray, "*shape"], strength: Any) -> Float[Array, "*shape"]:
        kernel = _float(kernel)
        directions = kernel + self.change.added(kernel, strength)
        own = kernel.ndim - (2 if self.of_inputs else 1)
        others = tuple(axis for axis in range(kernel.ndim) if axis != own)
        length = jnp.sqrt(jnp.square(directions).sum(others, keepdims=True))
        magnitude = jnp.expand_dims(_float(self.magnitude), others)
        # A direction of length 0 has nothing to scale.
        return directions * (magnitude / jnp.where(length > 0, length, 1)) - kernel


def changed(weight: Float[Array, "..."], change: WeightChange, strength: Any) -> Float[Array, "..."]:
    """A layer's kernel, scale or bias with a change added in float32, in its own dtype."""
    return (_float(weight) + change.added(weight, strength)).astype(weight.dtype)


def _float(array: Any) -> Float[Array, "..."]:
    return jnp.asarray(array, jnp.float32)
