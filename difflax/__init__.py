"""difflax: config-driven text-to-image diffusion research in JAX.

    import difflax
    pipeline = difflax.load("runs/shapes")
    images = pipeline("a large red circle in the top left", guidance_scale=3.0, seed=0)
"""

import typing

if typing.TYPE_CHECKING:
    from difflax.generation import Pipeline

__version__ = "0.1.0"


def load(workdir: str) -> "Pipeline":
    """The trained model of a workdir, ready to make images; see `difflax.generation.Pipeline`.

    Raises:
        difflax.types.UserError: if ``workdir`` holds no trained diffusion model.
    """
    # Imported here, so that importing difflax stays light.
    from difflax import experiment

    return experiment.load(workdir)
