"""How one file in the original layout holds a checkpoint, as a family of checkpoints says it.

``model.diffusion_model.`` is the denoising network, ``first_stage_model.`` the autoencoder; where the text
encoders are differs from family to family.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from difflax.core.types import UserError
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.autoencoder import autoencoder_names
from difflax.pretrained.single_file.tensors import grouped
from difflax.pretrained.single_file.text import Tower

DENOISER, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
"""What stands before the names of the denoising network's tensors, and of the autoencoder's."""

Files = Mapping[str, Mapping[str, Any]]
"""``index``, ``network``, ``autoencoder`` and ``scheduler``: the configs of a pipeline folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Original:
    """A family's files.

    Attributes:
        mark: the start of a tensor's name that only its files have.
        towers: the text encoders that may be in them.
        denoiser_names: the denoising network's tensors, of its config, by diffusers' names.
        autoencoder_names: the same of the autoencoder.
        infer: configs from the tensors of denoising network and autoencoder, the towers that are there, and
            the prediction type that was given.
        asks_prediction: whether a prediction type and a schedule without signal at its end may be given, or
            are marked.
        zero_snr_scheduler: the class of diffusers for such a schedule.
        example: a repository of the Hub with what files may lack.
    """

    mark: str
    towers: tuple[Tower, ...]
    denoiser_names: Callable[[Tensors, Mapping[str, Any]], Tensors]
    infer: Callable[[Tensors, Tensors, Sequence[Tower], str | None], Files]
    autoencoder_names: Callable[[Tensors, Mapping[str, Any]], Tensors] = autoencoder_names
    asks_prediction: bool = False
    zero_snr_scheduler: str = "DDIMScheduler"
    example: str

    def grouped(self, tensors: Tensors, path: Any, title: str) -> dict[str, Tensors]:
        """The tensors of each component by their prefix, without it.

        Args:
            path, title: of the file and the family, for errors.

        Raises:
            UserError: there is none of the denoising network or of the autoencoder, or one is of no
                component.
        """
        prefixes = (DENOISER, FIRST_STAGE, *(tower.prefix for tower in self.towers))
        groups = grouped(tensors, prefixes)
        absent = [prefix for prefix in prefixes[:2] if not groups[prefix]]
        if absent:
            raise UserError(
                f"{path} is a part of a {title} alone, without tensors under {' and '.join(absent)}: take the"
                " file with denoising network and autoencoder"
            )
        stray = sorted(name for name in tensors if not name.startswith(prefixes))
        if stray:
            named = "; ".join(f"unexpected {name}" for name in stray)
            raise UserError(f"the weights do not fit {path}: {named}")
        return groups
