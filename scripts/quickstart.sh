#!/usr/bin/env bash
# From a fresh machine to a guidance curve: first of the model that comes with difflax, in about a minute, then of
# one that is trained here. These are the commands of the README, one after the other.
#
# RUNS=DIR    where the runs go (default: runs)
# STEPS=N     train for N steps only, in place of the config's own number, and draw small ablations: shows in a
#             minute or two that all commands find what they need. The pictures of the new model are then noise.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs}
short=() scales=0,1,2,3,5,8 seeds=3
if [ -n "${STEPS:-}" ]; then
  short=(--config.training.steps="$STEPS" --config.optimizer.warmup_steps=1 --config.data.train=1000)
  scales=0,2 seeds=1
fi

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
difflax=.venv/bin/difflax

$difflax sample --workdir=embedded --output="$runs/samples" --num_images=4 --trajectory \
  --prompt="a large red circle" --prompt="a striped blue heart on a light background"
$difflax ablate --workdir=embedded --guidance_scales="$scales" --seeds="$seeds" --output="$runs/ablation"

$difflax train --config=configs/shapes.py --workdir="$runs/shapes" ${short[@]+"${short[@]}"}
$difflax sample --workdir="$runs/shapes" --output="$runs/shapes_samples" --num_images=4 --trajectory \
  --prompt="a large red circle" --prompt="a striped blue heart on a light background"
$difflax ablate --workdir="$runs/shapes" --guidance_scales="$scales" --seeds="$seeds" \
  --output="$runs/shapes_ablation"

echo
echo "the model that comes along:  $runs/samples/grid.png  $runs/ablation/plots/overview.png"
echo "                             $runs/ablation/report.html"
echo "the one trained here:        $runs/shapes_samples/grid.png  $runs/shapes_ablation/plots/overview.png"
