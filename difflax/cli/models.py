"""The flags of every command that makes images with a trained model, and the pipeline that they name."""

import math

from absl import flags

from difflax.cli.train import define_processes, join_processes
from difflax.config.pretrained import DTYPES
from difflax.core.bounds import MAX_STEPS, MAX_TOKENS
from difflax.core.files import writable_folder
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.diffusion.guidance import GUIDANCES
from difflax.diffusion.samplers import SAMPLERS

USUAL = "without it: that of the run or checkpoint"


def define_model_flags(values: flags.FlagValues, *, steps: str = USUAL, sampler: str = USUAL) -> None:
    """The flags of every command that makes images with a trained model.

    Args:
        steps, sampler: what is taken without the flag.
    """
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of a training run, whose newest checkpoint is used, or embedded: the model that comes with"
        " difflax (./embedded is a folder); without it: --pretrained must be given",
        flag_values=values,
    )
    flags.DEFINE_float(
        "ema_length",
        None,
        "with --workdir: make images with the power-function average of this length (sigma_rel, as 0.08),"
        " which is rebuilt from the run's snapshots (config.ema.profiles); without it: the run's own average",
        flag_values=values,
    )
    define_pretrained_flags(values)
    define_processes(values)
    flags.DEFINE_string(
        "mesh",
        None,
        "how many devices along each axis (data, fsdp, context, tensor), data=2,fsdp=4; without it: the"
        " run's own, or all of this process along data",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "folder for the results, which all processes reach; must be given", flag_values=values
    )
    flags.DEFINE_string(
        "negative_prompt", None, "what to go away from; without it: the empty prompt", flag_values=values
    )
    flags.DEFINE_integer("num_steps", None, f"steps of the sampler; {steps}", flag_values=values)
    flags.DEFINE_string("sampler", None, f"one of {', '.join(SAMPLERS)}; {sampler}", flag_values=values)
    flags.DEFINE_string(
        "guidance",
        None,
        f"one of {', '.join(GUIDANCES)}, or the section of a config with its settings, \"{{'name': 'apg',"
        f" 'scale': 10.0}}\" (docs/guidance.md); {USUAL}",
        flag_values=values,
    )


def define_pretrained_flags(values: flags.FlagValues) -> None:
    """The flags of every command that reads a checkpoint of Stable Diffusion."""
    flags.DEFINE_string(
        "pretrained",
        None,
        "checkpoint of Stable Diffusion: a folder in diffusers' layout, a Hub id, or one .safetensors"
        " file; without it: --workdir must be given",
        flag_values=values,
    )
    flags.DEFINE_string(
        "dtype", "float32", f"what a checkpoint is computed in: {', '.join(DTYPES)}", flag_values=values
    )
    flags.DEFINE_string(
        "variant",
        None,
        "files of the checkpoint of which there are several, fp16; without it: the plain ones",
        flag_values=values,
    )
    flags.DEFINE_string(
        "revision", None, "branch, tag or commit on the Hub; without it: the main branch", flag_values=values
    )
    flags.DEFINE_string(
        "config",
        None,
        "with one file: a folder or Hub id to take configs and tokenizers of; without it: the file's"
        " tensors tell, and tokenizers are the Hub's",
        flag_values=values,
    )
    flags.DEFINE_string(
        "tokenizer",
        None,
        "with one file: a folder or Hub id with the tokenizer; without it: that of --config or the Hub",
        flag_values=values,
    )
    flags.DEFINE_string(
        "prediction_type",
        None,
        "with one file of Stable Diffusion 2.x, for which it must be given: epsilon (base models) or"
        " v_prediction (768 pixels); of 1.x and XL: what a tensor v_pred in it says, or epsilon",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "zero_terminal_snr",
        None,
        "with one file of Stable Diffusion 1.x, 2.x or XL: its schedule ends without signal, where every run"
        " starts; without it: where the file has a tensor ztsnr",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "lora",
        [],
        "a LoRA's file or folder, with :weight behind it where that is not 1; without it: none",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "textual_inversion", [], "a learned word's file or folder; without it: none", flag_values=values
    )
    flags.DEFINE_bool(
        "t5",
        None,
        "use the T5 of a checkpoint that has three text encoders; without it: where it is there",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "t5_length",
        None,
        "tokens that the T5 reads of a prompt; without it: 256",
        lower_bound=1,
        upper_bound=MAX_TOKENS,
        flag_values=values,
    )


def load_pretrained(values: flags.FlagValues, weights=None):
    """The pipeline of ``--pretrained``, or of other `Weights` under the same flags."""
    from difflax import runs

    said = ("config", "tokenizer", "prediction_type", "zero_terminal_snr")
    names = ("dtype", "variant", "revision", *said, "t5", "t5_length")
    given = {name: values[name].value for name in names}
    source = values.pretrained
    if weights is not None:
        source, given["dtype"] = weights.source, weights.dtype or values.dtype
    pipeline = runs.from_pretrained(source, **given, mesh=read_mesh(values))
    return with_additions(values, pipeline)


def read_mesh(values: flags.FlagValues):
    """The mesh of ``--mesh``, ``None`` without one."""
    from difflax.config.resolve import read_section
    from difflax.config.schema import Section
    from difflax.parallel.sharding import MeshShape

    if "mesh" not in values or values.mesh is None:
        return None
    try:
        axes = {name: int(size) for name, size in (part.split("=") for part in values.mesh.split(","))}
    except ValueError as error:
        raise UserError(f"--mesh={values.mesh}: give whole numbers along axes, data=2,fsdp=4") from error
    return read_section(Section(of=MeshShape), {"data": 1, **axes}, "--mesh")


def with_additions(values: flags.FlagValues, pipeline):
    """The pipeline with what ``--lora`` and ``--textual_inversion`` name."""
    loras = [read_lora_flag(text) for text in values.lora]
    for path in values.textual_inversion:
        pipeline = pipeline.with_textual_inversion(path)
    return pipeline.with_lora(loras) if loras else pipeline


def read_lora_flag(text: str) -> tuple[str, float]:
    """``PATH`` or ``PATH:WEIGHT``."""
    path, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        return path, _finite(text, float(weight))
    except ValueError:
        # A path with a colon of its own: gs://bucket/file
        if "/" in weight:
            return text, 1.0
        raise UserError(f"--lora={text}: {weight!r} is no weight; give FILE or FILE:0.8") from None


def _finite(text: str, weight: float) -> float:
    if not math.isfinite(weight):
        raise UserError(f"--lora={text}: the weight must be a finite number")
    return weight


def check_output(values: flags.FlagValues) -> None:
    """Refuses an ``--output`` that no results can be written to."""
    if not values.output:
        raise UserError("give --output=DIR, a folder for the results")
    writable_folder(values.output, f"--output={values.output}")


def load_model(values: flags.FlagValues):
    """The pipeline of ``--workdir`` or ``--pretrained``, once all flags that could be wrong are looked at."""
    begin(values)
    return read_model(values)


def begin(values: flags.FlagValues) -> None:
    """Looks at the flags that a model needs, and joins the other processes of this run."""
    from etils import epath

    from difflax import runs
    from difflax.generation.rows import whole
    from difflax.training.power_averages import EMA_LENGTHS

    if bool(values.workdir) == bool(values.pretrained):
        raise UserError("give --workdir=DIR, the folder of a training run, or --pretrained=DIR_OR_HUB_ID")
    if "ema_length" in values and values.ema_length is not None:
        if values.pretrained:
            raise UserError("--ema_length: a checkpoint has one set of weights: give --workdir")
        EMA_LENGTHS.check(values.ema_length, "--ema_length")
    check_output(values)
    loras = [read_lora_flag(text) for text in values.lora]
    for flag, paths in (("lora", [p for p, _ in loras]), ("textual_inversion", values.textual_inversion)):
        for path in paths:
            if not path or not epath.Path(path).exists():
                raise UserError(f"--{flag}={path}: no such file or folder")
    if "guidance" in values and values.guidance is not None:
        runs.check_guidance_text(values.guidance)
    if "num_steps" in values and values.num_steps is not None:
        whole(values.num_steps, "num_steps", 1, MAX_STEPS)
    if "sampler" in values and values.sampler is not None:
        choose(SAMPLERS, values.sampler, "sampler")
    choose(DTYPES, values.dtype, "dtype")
    if "mesh" in values:
        read_mesh(values)
        join_processes(values)


def read_model(values: flags.FlagValues, weights=None):
    """The pipeline of ``--workdir`` or ``--pretrained``, of flags that `begin` has looked at; of other
    `Weights` where they are given.
    """
    from difflax import runs

    workdir = values.workdir if weights is None else weights.source
    if values.pretrained:
        workdir, pipeline = None, load_pretrained(values, weights)
    else:
        step = None if weights is None else weights.step
        pipeline = runs.load(workdir, read_mesh(values), step, ema_length=ema_length(values, weights))
        pipeline = with_additions(values, pipeline)
    if "guidance" not in values or values.guidance is None:
        return pipeline
    return runs.with_guidance(pipeline, values.guidance, workdir)


def ema_length(values: flags.FlagValues, weights=None) -> float | None:
    """The length of the average that makes the images: that of other `Weights`, or of ``--ema_length``."""
    if weights is not None and weights.ema_length is not None:
        return weights.ema_length
    return values.ema_length if "ema_length" in values else None


def weights_named(values: flags.FlagValues, pipeline) -> str:
    """Which weights of ``--workdir`` make the images, in words."""
    length = values.ema_length
    average = "averaged parameters" if length is None else f"average of length {length:g}"
    return f"{values.workdir}, step {pipeline.model.step}, {average}"
