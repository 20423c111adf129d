"""configs/shapes_latent.py of commit ca6f114."""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """``arg``: unused."""
    base = runpy.run_path(str(pathlib.Path(__file__).with_name("shapes.py")))
    config = base["get_config"]().unlock()
    config.autoencoder = {"name": "autoencoder_kl", "path": "runs/autoencoder"}
    return config.lock()
