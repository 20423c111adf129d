"""The same code as ``difflax sample``, for machines where only the checkout is at hand."""

import sys

from difflax.cli.main import run

sys.exit(run(["sample", *sys.argv[1:]]))
