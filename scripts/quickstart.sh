#!/usr/bin/env bash
# From a fresh machine to a trained text-to-image model and its guidance curve: the commands of the README, one
# after the other, on data that difflax renders itself.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs}

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
difflax=.venv/bin/difflax

$difflax train --config=configs/clip.py:shapes --workdir="$runs/clip_shapes"
$difflax train --config=configs/shapes.py --workdir="$runs/shapes" \
  --config.text_encoder.path="$runs/clip_shapes"
$difflax sample --workdir="$runs/shapes" --output="$runs/samples" --num_images=4 --trajectory \
  --prompt="a large red circle in the top left" --prompt="a small blue square in the centre"
$difflax ablate --workdir="$runs/shapes" --guidance_scales=0,1,1.5,2,3,4,6,8 --seeds=3 \
  --output="$runs/ablation"

echo
echo "pictures:  $runs/samples/grid.png  $runs/samples/trajectory.png  $runs/ablation/plots/overview.png"
echo "report:    $runs/ablation/report.html"
