"""The same code as ``difflax evaluate``, for machines where only the checkout is at hand."""

import sys

from difflax.cli.main import run

sys.exit(run(["evaluate", *sys.argv[1:]]))
