"""Run-time checks of every public signature's shapes and types, in tests only."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("difflax", "beartype.beartype")
