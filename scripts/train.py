"""The same code as ``difflax train``, for machines where only the checkout is at hand."""

import sys

from difflax.cli.main import run

sys.exit(run(["train", *sys.argv[1:]]))
