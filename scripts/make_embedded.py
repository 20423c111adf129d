"""Makes the model that comes with difflax, difflax/embedded/, of a trained run, and measures it.

    python scripts/make_embedded.py runs/shapes_long --early=2000 \
        --command="difflax train --config=configs/shapes.py:long --workdir=runs/shapes_long"

The judge's numbers of ``difflax evaluate --workdir=embedded`` are stored beside it; a test holds them against
a fresh evaluation. Nothing may be in its place before. Commit the folder afterwards.
"""

import argparse
import sys
import tempfile

from difflax.cli.main import ending, run
from difflax.config.embedded import EMBEDDED, SHIPPED
from difflax.runs.embedded import make_embedded, store_results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("workdir", help="of the trained run")
    parser.add_argument("--early", type=int, help="step of an earlier checkpoint to take along")
    parser.add_argument("--command", required=True, help="how the run was trained, for the README")
    parser.add_argument("--seeds", type=int, help="images of each prompt that are judged")
    given = parser.parse_args()
    status = ending(lambda: make(given))
    if status:
        return status
    with tempfile.TemporaryDirectory() as results:
        seeds = [] if given.seeds is None else [f"--seeds={given.seeds}"]
        status = run(["evaluate", f"--workdir={EMBEDDED}", f"--output={results}", *seeds])
        if status == 0:
            store_results(SHIPPED, f"{results}/results.json")
    return status


def make(given: argparse.Namespace) -> None:
    made = make_embedded(given.workdir, SHIPPED, command=given.command, early=given.early)
    features = "with" if made.features else "without (they do not fit)"
    print(f"{SHIPPED}: {made.size:,} bytes, {features} CLIP features, {made.hours:.2g} hours of training")


if __name__ == "__main__":
    sys.exit(main())
