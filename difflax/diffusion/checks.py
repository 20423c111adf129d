"""Range checks of settings."""

import numpy as np


def require(condition: bool | np.bool_, message: str) -> None:
    """Raises ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)
