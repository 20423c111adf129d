"""The same code as ``difflax ablate``, for machines where only the checkout is at hand."""

import sys

from difflax.cli.main import run

sys.exit(run(["ablate", *sys.argv[1:]]))
