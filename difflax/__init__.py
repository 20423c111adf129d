"""difflax: config-driven text-to-image diffusion research in JAX.

import difflax
pipeline = difflax.load("embedded")
images = pipeline("a large red circle", guidance_scale=3.0, seed=0)
"""

import importlib
import typing

from difflax.core.version import __version__

if typing.TYPE_CHECKING:
    from difflax.core.types import Conditioning, UserError
    from difflax.evaluation.measuring.measures import MeasureSettings
    from difflax.generation.ensemble import Ensemble
    from difflax.generation.pipeline import Denoised, Pipeline
    from difflax.generation.request import Request
    from difflax.models.size_conditioning import MicroConditioning
    from difflax.parallel.sharding import MeshShape
    from difflax.runs import from_pretrained, load, measure, with_guidance

_HOMES = {
    "Conditioning": "difflax.core.types",
    "Denoised": "difflax.generation.pipeline",
    "Ensemble": "difflax.generation.ensemble",
    "MeasureSettings": "difflax.evaluation.measuring.measures",
    "MeshShape": "difflax.parallel.sharding",
    "MicroConditioning": "difflax.models.size_conditioning",
    "Pipeline": "difflax.generation.pipeline",
    "Request": "difflax.generation.request",
    "UserError": "difflax.core.types",
    "from_pretrained": "difflax.runs",
    "load": "difflax.runs",
    "measure": "difflax.runs",
    "with_guidance": "difflax.runs",
}
"""Where the names that users write live; each is imported when it is first asked for, so that
``import difflax`` stays light.
"""

__all__ = [
    "Conditioning",
    "Denoised",
    "Ensemble",
    "MeasureSettings",
    "MeshShape",
    "MicroConditioning",
    "Pipeline",
    "Request",
    "UserError",
    "__version__",
    "from_pretrained",
    "load",
    "measure",
    "with_guidance",
]


def __getattr__(name: str) -> typing.Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'difflax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
