#!/usr/bin/env bash
# From a fresh machine to a trained text-to-image model and its guidance curve: the commands of the README, one
# after the other, on data that difflax renders itself.
#
# RUNS=DIR    where the runs go (default: runs)
# STEPS=N     train for N steps only, in place of the configs' own number, and draw a small ablation: shows in a
#             minute or two that all commands find what they need. The pictures are then noise.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs}
short=() scales=0,1,1.5,2,3,4,6,8 seeds=3
if [ -n "${STEPS:-}" ]; then
  short=(--config.training.steps="$STEPS" --config.optimizer.warmup_steps=1)
  scales=0,2 seeds=1
fi

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
difflax=.venv/bin/difflax

$difflax train --config=configs/clip.py:shapes --workdir="$runs/clip_shapes" ${short[@]+"${short[@]}"}
$difflax train --config=configs/shapes.py --workdir="$runs/shapes" \
  --config.text_encoder.path="$runs/clip_shapes" ${short[@]+"${short[@]}"}
$difflax sample --workdir="$runs/shapes" --output="$runs/samples" --num_images=4 --trajectory \
  --prompt="a large red circle in the top left" --prompt="a small blue square in the centre"
$difflax ablate --workdir="$runs/shapes" --guidance_scales="$scales" --seeds="$seeds" \
  --output="$runs/ablation"

echo
echo "pictures:  $runs/samples/grid.png  $runs/samples/trajectory.png  $runs/ablation/plots/overview.png"
echo "report:    $runs/ablation/report.html"
