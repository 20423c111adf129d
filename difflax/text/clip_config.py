"""CLIP's sizes, under the field names of the Hub's ``config.json``.

A ``config.json`` carries many keys that no network reads (versions, generation settings, initialisers of
another framework). ``from_config`` takes the fields below and leaves the rest, as transformers does; a value
that these networks cannot honour is an error.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from difflax.core.bounds import Depth, Edge, NotNegative, Vocabulary, Width
from difflax.core.kinds import read_own_fields
from difflax.core.spelling import shown
from difflax.core.types import UserError

HIDDEN_ACTIVATIONS = ("quick_gelu", "gelu")

Tower = TypeVar("Tower", bound="_TowerConfig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TowerConfig:
    """What both towers have.

    Attributes:
        hidden_size: width.
        intermediate_size: width of the feed-forward layers.
        num_hidden_layers: transformer blocks.
        num_attention_heads: of every block.
        projection_dim: of the joint space.
        hidden_act: activation, ``quick_gelu`` or ``gelu``.
        layer_norm_eps: of every norm.

    Raises:
        UserError: an activation that is not implemented, or a width that the heads do not divide.
    """

    model_type: ClassVar[str]
    activations: ClassVar[tuple[str, ...]] = HIDDEN_ACTIVATIONS

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Width
    projection_dim: Width = 512
    hidden_act: str = "quick_gelu"
    layer_norm_eps: NotNegative = 1e-5

    def __post_init__(self):
        name = type(self).__name__
        if self.hidden_act not in self.activations:
            valid = ", ".join(self.activations)
            raise UserError(f"{name}.hidden_act = {self.hidden_act!r}: choose one of {valid}")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"{name}.hidden_size = {self.hidden_size} is not a multiple of"
                f" num_attention_heads = {self.num_attention_heads}: change one of them"
            )

    @classmethod
    def from_config(cls: type[Tower], config: Mapping[str, Any]) -> Tower:
        """Reads the mapping of a ``config.json``; a missing field takes the default below.

        Raises:
            UserError: a value that the tower cannot honour.
        """
        if config.get("attention_dropout", 0.0):
            raise UserError(
                f"{cls.__name__}.attention_dropout = {config['attention_dropout']}: CLIP is trained without;"
                " set it to 0"
            )
        return cls(**read_own_fields(cls, config))

    def to_config(self) -> dict[str, Any]:
        """The fields as ``config.json`` has them; `from_config` reads them back."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(_TowerConfig):
    """The text tower. Defaults are those of transformers: the tower of OpenAI's ViT-B/32.

    ``eos_token_id`` 2 marks an old checkpoint, see `difflax.text.clip.eos_positions`.

    Attributes:
        vocab_size: tokens that the tokenizer knows.
        max_position_embeddings: tokens a caption.
        pad_token_id: of the tokenizer.
        bos_token_id: of the tokenizer.
        eos_token_id: of the tokenizer.
    """

    model_type: ClassVar[str] = "clip_text_model"

    vocab_size: Vocabulary = 49408
    hidden_size: Width = 512
    intermediate_size: Width = 2048
    num_hidden_layers: Depth = 12
    num_attention_heads: Width = 8
    max_position_embeddings: Width = 77
    pad_token_id: int = 1
    bos_token_id: int = 49406
    eos_token_id: int = 49407


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(_TowerConfig):
    """The image tower. Defaults are those of transformers: OpenAI's ViT-B/32.

    Attributes:
        num_channels: of an image.
        image_size: edge of an image, in pixels.
        patch_size: edge of a token, in pixels.

    Raises:
        UserError: also where the patches do not tile the image.
    """

    model_type: ClassVar[str] = "clip_vision_model"

    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_hidden_layers: Depth = 12
    num_attention_heads: Width = 12
    num_channels: Width = 3
    image_size: Edge = 224
    patch_size: Edge = 32

    def __post_init__(self):
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise UserError(
                f"CLIPVisionConfig.image_size = {self.image_size} is not a multiple of"
                f" patch_size = {self.patch_size}: change one of them"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Two towers and the joint space; the projection's size here overrides the towers' own.

    ``logit_scale_init_value`` is ln(1/0.07), the temperature of Radford et al. 2021, sec. 2.5.

    Attributes:
        text_config: the text tower.
        vision_config: the image tower.
        projection_dim: of the joint space.
        logit_scale_init_value: logarithm of the inverse temperature at the start.
    """

    model_type: ClassVar[str] = "clip"

    text_config: CLIPTextConfig = CLIPTextConfig()
    vision_config: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: Width = 512
    logit_scale_init_value: float = math.log(1 / 0.07)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "CLIPConfig":
        """Reads the mapping of a whole CLIP's ``config.json``, of which ``text_config_dict`` and
        ``vision_config_dict``, where an old file has them, override ``text_config`` and ``vision_config``.

        Raises:
            UserError: a value that a tower cannot honour.
        """
        size = config.get("projection_dim", cls.projection_dim)

        def tower(kind, name):
            fields: dict[str, Any] = {}
            for key in (name, f"{name}_dict"):
                given = config.get(key) or {}
                if type(given) is not dict:
                    raise UserError(f"{cls.__name__}.{key} = {shown(given)} must be a mapping of sizes")
                fields |= given
            fields["projection_dim"] = size
            return kind.from_config(fields)

        names = ("projection_dim", "logit_scale_init_value")
        return cls(
            **read_own_fields(cls, {name: config[name] for name in names if name in config}),
            text_config=tower(CLIPTextConfig, "text_config"),
            vision_config=tower(CLIPVisionConfig, "vision_config"),
        )

    def to_config(self) -> dict[str, Any]:
        """The mapping to write as ``config.json``: what transformers' ``CLIPModel`` reads."""
        return {
            "architectures": ["CLIPModel"],
            "model_type": self.model_type,
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
            "text_config": self.text_config.to_config(),
            "vision_config": self.vision_config.to_config(),
        }
