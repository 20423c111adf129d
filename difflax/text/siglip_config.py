"""SigLIP's sizes, under the field names of the Hub's ``config.json``. Defaults are those of transformers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from difflax.core.bounds import Edge, NotNegative, Vocabulary, Width
from difflax.core.types import UserError
from difflax.text.clip_config import CLIPTextConfig, CLIPVisionConfig

SIGLIP_ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "quick_gelu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigLIPTextConfig(CLIPTextConfig):
    """The text tower.

    Attributes:
        projection_size: of the joint space; ``None``: as wide as the tower.
    """

    model_type: ClassVar[str] = "siglip_text_model"
    activations: ClassVar[tuple[str, ...]] = SIGLIP_ACTIVATIONS

    vocab_size: Vocabulary = 32000
    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_attention_heads: Width = 12
    max_position_embeddings: Width = 64
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: NotNegative = 1e-6
    projection_size: Width | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigLIPVisionConfig(CLIPVisionConfig):
    """The image tower. What is left over at the right and below, where the patches do not tile the image, is
    not read.
    """

    model_type: ClassVar[str] = "siglip_vision_model"
    activations: ClassVar[tuple[str, ...]] = SIGLIP_ACTIVATIONS

    image_size: Edge = 224
    patch_size: Edge = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: NotNegative = 1e-6

    def __post_init__(self):
        # Not CLIP's own, which wants patches that tile.
        super(CLIPVisionConfig, self).__post_init__()
        if self.patch_size > self.image_size:
            raise UserError(f"SigLIP: patches of {self.patch_size} pixels in images of {self.image_size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigLIPConfig:
    """Two towers.

    Attributes:
        text_config: the text tower.
        vision_config: the image tower.
    """

    model_type: ClassVar[str] = "siglip"

    text_config: SigLIPTextConfig = SigLIPTextConfig()
    vision_config: SigLIPVisionConfig = SigLIPVisionConfig()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SigLIPConfig":
        """Reads the mapping of a ``config.json``.

        Raises:
            UserError: a value that a tower cannot honour, or an image tower without its head.
        """
        vision = config.get("vision_config") or {}
        if not vision.get("vision_use_head", True):
            raise UserError("SigLIPConfig.vision_config.vision_use_head = False: an image has no vector then")
        return cls(
            text_config=SigLIPTextConfig.from_config(config.get("text_config") or {}),
            vision_config=SigLIPVisionConfig.from_config(vision),
        )

    @property
    def projection_size(self) -> int:
        """Of the joint space."""
        return self.text_config.projection_size or self.text_config.hidden_size
