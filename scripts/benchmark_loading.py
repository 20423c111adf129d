"""Load time and peak memory of a Stable Diffusion checkpoint, beside PyTorch diffusers', each in a process of
its own.

    python tests/fixtures/full_width.py FOLDER
    python scripts/benchmark_loading.py FOLDER
"""

import json
import subprocess
import sys

MEASURE = """
import json, sys, time
def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 2**20
{imports}
before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
{load}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({{"seconds": seconds, "cpu": cpu, "before": before, "peak": memory("VmHWM")}}))
"""
TOUCH = """
for model in (pipeline.unet, pipeline.vae, pipeline.model.text_encoder):
    for tensor in model.state_dict().values():
        tensor.sum()
"""
"""diffusers maps a file into memory and reads nothing before the first use; this is the first use."""

OURS = "import difflax, jax, difflax.runs; from transformers import AutoTokenizer; jax.devices()"
"""diffusers has imported the tokenizers by then, difflax imports them with the first checkpoint."""

CASES = {
    "difflax, float32": (
        OURS,
        "pipeline = difflax.from_pretrained(sys.argv[1])",
    ),
    "difflax, bfloat16": (
        OURS,
        "pipeline = difflax.from_pretrained(sys.argv[1], dtype='bfloat16')",
    ),
    "diffusers, float32": (
        "import torch, diffusers; from diffusers import StableDiffusionPipeline",
        "pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)" + TOUCH,
    ),
    "diffusers, bfloat16": (
        "import torch, diffusers; from diffusers import StableDiffusionPipeline",
        "pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)" + TOUCH,
    ),
}


def main() -> None:
    print("| loader | seconds | of the processor | peak memory, GiB | of it before loading |")
    print("|---|---|---|---|---|")
    for name, (imports, load) in CASES.items():
        code = MEASURE.format(imports=imports, load=load)
        done = subprocess.run(
            [sys.executable, "-c", code, sys.argv[1]], capture_output=True, text=True, check=True
        )
        made = json.loads(done.stdout.splitlines()[-1])
        times = f"{made['seconds']:.1f} | {made['cpu']:.1f}"
        print(f"| {name} | {times} | {made['peak']:.2f} | {made['before']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
