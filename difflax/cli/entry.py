"""The console script: Ctrl-C is one line also while the modules of the command line are imported, which takes
a second or more. Nothing is imported here before it is watched.
"""

import sys


def main() -> None:
    """Runs the command line and exits with its status."""
    try:
        from difflax.cli.main import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        print("difflax: stopped by Ctrl-C before it began", file=sys.stderr)
        status = 130  # `difflax.core.types.CTRL_C`, which is perhaps not imported
    sys.exit(status)
