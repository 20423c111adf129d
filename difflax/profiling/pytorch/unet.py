"""PyTorch's side of `difflax benchmark`: diffusers' UNet, eager, on the weights that difflax hands over.

    python unet.py case.json weights.safetensors

No module of difflax, which never imports torch, but a file that travels with it and runs in a process of its
own. Says hello on standard output, then answers each line `{"task": name}` of standard input with one of its
own; see `difflax.profiling.benchmark`. Needs the [parity] extra.
"""

import json
import resource
import sys
import time

import diffusers
import torch
from safetensors.torch import load_file


def main(case_path: str, weights_path: str) -> None:
    """Answers until it is asked to end."""
    with open(case_path) as file:
        case = json.load(file)
    tensors = load_file(weights_path)
    given = {name.removeprefix("inputs/"): t for name, t in tensors.items() if name.startswith("inputs/")}
    for name in ("x", "target", "noise"):
        given[name] = given[name].permute(0, 3, 1, 2).contiguous()
    unet = diffusers.UNet2DConditionModel(sample_size=case["size"], **case["options"])
    prefix = "weights/"
    unet.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    params = list(unet.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def train() -> torch.Tensor:
        optimizer.zero_grad()
        out = unet(given["x"], given["timesteps"], given["context"]).sample
        loss = torch.nn.functional.mse_loss(out, given["target"])
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in params], 1e-3)
        return loss.detach()

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return unet(given["x"], given["timesteps"], given["context"]).sample.abs().mean()

    @torch.inference_mode()
    def sample() -> torch.Tensor:
        scheduler = diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="trailing",
            clip_sample=False,
        )
        scheduler.set_timesteps(case["num_steps"])
        x = given["noise"]
        for t in scheduler.timesteps:
            cond, uncond = unet(torch.cat([x, x]), t, given["prompts"]).sample.chunk(2)
            x = scheduler.step(uncond + 7.5 * (cond - uncond), t, x).prev_sample
        return x.abs().mean()

    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    answer({"versions": versions, "threads": torch.get_num_threads()})
    tasks = {"train": train, "forward": forward, "sample": sample}
    for line in sys.stdin:
        task = json.loads(line)["task"]
        if task == "end":
            answer({"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})
            return
        start = time.perf_counter()
        value = tasks[task]()
        answer({"seconds": time.perf_counter() - start, "value": float(value)})


def answer(values: dict) -> None:
    """One line of JSON."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
