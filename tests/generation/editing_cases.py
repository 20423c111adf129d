"""Runs that start from a picture, as generated cases, and what diffusers' pipelines make of them.

Both sides are given the same noise, the start's and that of every step, and the mean of the autoencoder's
posterior, of which diffusers' pipelines draw a sample.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from difflax.core import streams

from tests.fixtures import make_sdxl, make_stable_diffusion, make_stable_diffusion_3

HEIGHT, WIDTH, SCALE, SEED = 32, 48, 1.25, 5
PROMPT, NEGATIVE = make_stable_diffusion.PROMPT, make_stable_diffusion.NEGATIVE
XL_DEPTHS, REFINER_DEPTHS = (1, 1, 1), (1, 1, 1, 1)
STEPS = (3, 7, 10, 13, 20, 25)
STRENGTHS = (0.15, 0.33, 0.5, 0.75, 0.77, 0.97, 1.0)
SHARES = (0.31, 0.5, 0.77, 0.93)

LATENT = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "own": {},
    "ddim": LATENT | {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False},
    "multistep": LATENT | {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
    "unipc": LATENT | {"_class_name": "UniPCMultistepScheduler"},
    "heun": LATENT | {"_class_name": "HeunDiscreteScheduler", "timestep_spacing": "leading"},
    "singlestep": {k: v for k, v in LATENT.items() if k != "steps_offset"}
    | {"_class_name": "DPMSolverSinglestepScheduler"},
    "ancestral": LATENT | {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
    "ddpm": LATENT | {"_class_name": "DDPMScheduler", "clip_sample": False},
    "flow_heun": {"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0},
    "flow_karras": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "shift": 3.0,
        "use_karras_sigmas": True,
    },
    "flow_noise": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "shift": 3.0,
        "stochastic_sampling": True,
    },
}
"""What replaces the checkpoint's own scheduler; ``prediction_type`` is the checkpoint's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A pipeline of diffusers on a checkpoint.

    Attributes:
        checkpoint: its name, see `build`.
        pipeline: the class in diffusers.
        gives: "image", "mask" or "edit": what the call is given; "ensemble" for two models.
        schedulers: of `SCHEDULERS`, each of which is one or two programs to compile.
    """

    checkpoint: str
    pipeline: str
    gives: str
    schedulers: tuple[str, ...]


UNET_SCHEDULERS = ("own", "multistep", "ancestral")
FLOW_SCHEDULERS = ("own", "flow_karras", "flow_noise")
KINDS = {
    "sd15_image": Kind(
        checkpoint="sd15",
        pipeline="StableDiffusionImg2ImgPipeline",
        gives="image",
        schedulers=("own", "multistep", "ancestral", "unipc", "heun", "singlestep", "ddim"),
    ),
    "sd21_v_image": Kind(
        checkpoint="sd21_v",
        pipeline="StableDiffusionImg2ImgPipeline",
        gives="image",
        schedulers=("own", "unipc", "ddpm"),
    ),
    "xl_image": Kind(
        checkpoint="base",
        pipeline="StableDiffusionXLImg2ImgPipeline",
        gives="image",
        schedulers=UNET_SCHEDULERS,
    ),
    "refiner_image": Kind(
        checkpoint="refiner",
        pipeline="StableDiffusionXLImg2ImgPipeline",
        gives="image",
        schedulers=UNET_SCHEDULERS,
    ),
    "sd3_image": Kind(
        checkpoint="sd3_medium",
        pipeline="StableDiffusion3Img2ImgPipeline",
        gives="image",
        schedulers=FLOW_SCHEDULERS,
    ),
    "sd15_mask": Kind(
        checkpoint="sd15",
        pipeline="StableDiffusionInpaintPipeline",
        gives="mask",
        schedulers=("own", "multistep", "ancestral", "unipc", "heun", "ddim"),
    ),
    "sd15_mask_9": Kind(
        checkpoint="sd15_inpainting",
        pipeline="StableDiffusionInpaintPipeline",
        gives="mask",
        schedulers=UNET_SCHEDULERS,
    ),
    "xl_mask": Kind(
        checkpoint="base",
        pipeline="StableDiffusionXLInpaintPipeline",
        gives="mask",
        schedulers=UNET_SCHEDULERS,
    ),
    "xl_mask_9": Kind(
        checkpoint="base_inpainting",
        pipeline="StableDiffusionXLInpaintPipeline",
        gives="mask",
        schedulers=UNET_SCHEDULERS,
    ),
    "sd3_mask": Kind(
        checkpoint="sd3_medium",
        pipeline="StableDiffusion3InpaintPipeline",
        gives="mask",
        schedulers=FLOW_SCHEDULERS,
    ),
    "sd15_edit": Kind(
        checkpoint="sd15_editing",
        pipeline="StableDiffusionInstructPix2PixPipeline",
        gives="edit",
        schedulers=UNET_SCHEDULERS,
    ),
    "ensemble": Kind(
        checkpoint="base",
        pipeline="StableDiffusionXLPipeline",
        gives="ensemble",
        schedulers=UNET_SCHEDULERS,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Attributes:
        share: the strength, or the ensemble's handover; nothing for editing.
    """

    kind: str
    scheduler: str
    steps: int
    share: float | None

    def __str__(self) -> str:
        return f"{self.kind}-{self.scheduler}-{self.steps}-{self.share}"


def generated() -> list[Case]:
    """Cases of every kind with each of its schedulers; each has as many steps and strengths as it can."""
    cases = []
    for index, (name, kind) in enumerate(KINDS.items()):
        for row, scheduler in enumerate(kind.schedulers):
            steps = np.roll(STEPS, index + row)
            if kind.gives == "edit":
                cases += [Case(kind=name, scheduler=scheduler, steps=int(n), share=None) for n in steps[:3]]
                continue
            shares = SHARES if kind.gives == "ensemble" else np.roll(STRENGTHS, 2 * row + index)
            for n, share in zip(steps, np.resize(shares, len(steps)), strict=True):
                # A step before the picture is there, and one after the base is done.
                if int(n * share) > 0 and (kind.gives != "ensemble" or share < 1 - 1 / n):
                    cases.append(Case(kind=name, scheduler=scheduler, steps=int(n), share=float(share)))
    return cases


def build(name: str, folder: pathlib.Path, scheduler: str = "own") -> pathlib.Path:
    """The folder of a checkpoint, with the scheduler of that name."""
    xl = {
        "base": lambda: make_sdxl.build("base", folder, XL_DEPTHS),
        "base_inpainting": lambda: _with_mask(make_sdxl.build("base", folder, XL_DEPTHS)),
        "refiner": lambda: make_sdxl.build("refiner", folder, REFINER_DEPTHS),
        "sd3_medium": lambda: make_stable_diffusion_3.build(name, folder),
    }
    xl.get(name, lambda: make_stable_diffusion.build(name, folder))()
    if scheduler != "own":
        path = folder / "scheduler" / "scheduler_config.json"
        own = json.loads(path.read_text())
        kept = {k: own[k] for k in ("prediction_type",) if k in own}
        path.write_text(json.dumps(kept | SCHEDULERS[scheduler]))
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", SCHEDULERS[scheduler]["_class_name"]]
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _with_mask(folder: pathlib.Path) -> pathlib.Path:
    """An XL base that reads a mask and what is under it, with random weights for them."""
    import safetensors.numpy

    [path] = (folder / "unet").glob("*.safetensors")
    tensors = safetensors.numpy.load_file(path)
    first = tensors["conv_in.weight"]
    more = np.random.default_rng(9).normal(size=(len(first), 5, 3, 3)) / 5
    tensors["conv_in.weight"] = np.concatenate([first, more.astype(first.dtype)], axis=1)
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
    return folder


@functools.cache
def picture() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    return np.stack([0.5 + 0.4 * np.sin(5 * x + 3 * y), y, 1 - x / 1.6], -1).astype(np.float32)


@functools.cache
def mask() -> np.ndarray:
    """With an edge between the pixels of a latent."""
    made = np.zeros((HEIGHT, WIDTH), np.float32)
    made[6:22, 11:37] = 1
    return made


def noises(channels: int, count: int) -> list[np.ndarray]:
    """That of the start, and what difflax's samplers draw at each step, NHWC."""
    shape = (HEIGHT // 8, WIDTH // 8, channels)
    start = np.random.default_rng(3).standard_normal((1, *shape)).astype(np.float32)
    keys = streams.substream(jax.vmap(lambda s: streams.stream(s, "sample"))(np.uint32([SEED])), "steps")
    steps = [jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(count)]
    return [start, *(np.asarray(streams.normal(key, shape)) for key in steps)]


@contextlib.contextmanager
def known_noise(pipeline, channels: int, steps: int, starts: int = 1) -> Iterator[None]:
    """A pipeline of diffusers draws `noises`, the start's ``starts`` times, and the posterior's mean."""
    import torch
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    first, *later = (torch.from_numpy(n).permute(0, 3, 1, 2) for n in noises(channels, steps))
    drawn = iter([first] * starts + later)
    modules = {__import__(type(part).__module__, fromlist=["x"]) for part in (pipeline, pipeline.scheduler)}
    modules = {m for m in modules if hasattr(m, "randn_tensor")}
    before = {m: m.randn_tensor for m in modules}
    sample = DiagonalGaussianDistribution.sample
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()
    for module in modules:
        module.randn_tensor = lambda shape, **_: next(drawn).clone()
    try:
        yield
    finally:
        DiagonalGaussianDistribution.sample = sample
        for module, function in before.items():
            module.randn_tensor = function


def arguments(case: Case) -> dict[str, Any]:
    """What difflax is given beside the prompts."""
    channels = 16 if "sd3" in case.kind else 4
    given = {
        "image": {"image": picture(), "strength": case.share},
        "mask": {"image": picture(), "mask": mask(), "strength": case.share},
        "edit": {"image": picture(), "image_guidance_scale": 1.2},
        "ensemble": {},
    }[KINDS[case.kind].gives]
    return given | {
        "guidance_scale": SCALE,
        "num_steps": case.steps,
        "latents": noises(channels, 0)[0],
        "seed": SEED,
        "height": HEIGHT,
        "width": WIDTH,
    }


def theirs(case: Case, parts: Mapping[str, Any]) -> np.ndarray:
    """What diffusers makes of a case; ``parts`` are pipelines of its checkpoints, by name."""
    import torch

    kind = KINDS[case.kind]
    pipeline = pipeline_of(parts[kind.checkpoint], kind.pipeline)
    image = torch.from_numpy(picture())[None].permute(0, 3, 1, 2)
    run = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": case.steps,
        "guidance_scale": SCALE,
        "output_type": "np",
    }
    sizes = {}
    if "sd3" in case.kind:
        run["max_sequence_length"] = make_stable_diffusion_3.LENGTH
        sizes = {"height": HEIGHT, "width": WIDTH}
    channels = 16 if "sd3" in case.kind else 4
    run |= {
        "image": lambda: {"image": image, "strength": case.share} | sizes,
        "mask": lambda: {
            "image": image,
            "mask_image": torch.from_numpy(mask())[None, None],
            "strength": case.share,
            "height": HEIGHT,
            "width": WIDTH,
        },
        "edit": lambda: {"image": image, "image_guidance_scale": 1.2},
        "ensemble": lambda: {"height": HEIGHT, "width": WIDTH},
    }[kind.gives]()
    with torch.no_grad():
        if kind.gives != "ensemble":
            with known_noise(pipeline, channels, 2 * case.steps + 2):
                return decoded(pipeline, pipeline(**run | {"output_type": "latent"}).images)
        with known_noise(pipeline, channels, case.steps):
            latents = pipeline(**run | {"output_type": "latent"}, denoising_end=case.share).images
        del run["height"], run["width"]
        refiner = pipeline_of(parts["refiner"], "StableDiffusionXLImg2ImgPipeline")
        # It starts from latents: difflax draws the noise of its steps as of any run's.
        with known_noise(refiner, channels, case.steps, starts=0):
            run["output_type"] = "latent"
            return decoded(refiner, refiner(**run, image=latents, denoising_start=case.share).images)


def decoded(pipeline: Any, latents: Any) -> np.ndarray:
    """The image of latents. ``StableDiffusion3InpaintPipeline`` of diffusers 0.42 leaves out the shift of the
    autoencoder, which it took off the picture and which SD3's other pipelines add again: here it is added.
    """
    config = pipeline.vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    image = pipeline.vae.decode(latents / config.scaling_factor + shift, return_dict=False)[0]
    return pipeline.image_processor.postprocess(image, output_type="np")


def loaded(name: str, folder: pathlib.Path) -> Any:
    """A pipeline of diffusers with the parts of a checkpoint in ``folder``."""
    import diffusers
    import torch

    kinds = {
        "refiner": "StableDiffusionXLImg2ImgPipeline",
        "sd3_medium": "StableDiffusion3Pipeline",
        "base": "StableDiffusionXLPipeline",
        "base_inpainting": "StableDiffusionXLPipeline",
    }
    kind = getattr(diffusers, kinds.get(name, "StableDiffusionPipeline"))
    checker = {} if name in kinds else {"safety_checker": None}
    return kind.from_pretrained(folder, variant="fp16", torch_dtype=torch.float32, **checker)


def pipeline_of(loaded: Any, name: str) -> Any:
    """A pipeline of that class with the parts of another."""
    import inspect

    import diffusers

    kind = getattr(diffusers, name)
    scheduler = type(loaded.scheduler).from_config(loaded.scheduler.config)
    known = inspect.signature(kind.__init__).parameters
    given = {k: v for k, v in loaded.components.items() if k in known} | {"scheduler": scheduler}
    more = {"requires_safety_checker": False, "add_watermarker": False, "requires_aesthetics_score": False}
    for key in more:
        if key in known:
            given[key] = loaded.config.get(key, more[key])
    if "force_zeros_for_empty_prompt" in known:
        given["force_zeros_for_empty_prompt"] = loaded.config.get("force_zeros_for_empty_prompt", True)
    pipeline = kind(**given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
