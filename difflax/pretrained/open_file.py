"""A checkpoint in one safetensors file in the original layout, all components together.

The file names tensors as CompVis' and Stability's code does; each family says how (`Original`). Names become
diffusers', and nothing is read before it is asked for. What a file does not hold (tokenizer, scheduler, of
some families text encoders) comes from the family, or from a pipeline folder that is given.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping

from etils import epath

from difflax.core.types import Params, UserError
from difflax.pretrained.components.text_encoders import EncoderOptions, load_text_encoders
from difflax.pretrained.families import check_options, family_of_file, read_configs
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.families.family import Configs, Family
from difflax.pretrained.format.hub import download
from difflax.pretrained.format.layout import INDEX, has_component
from difflax.pretrained.format.safetensors import PICKLES, Tensors, open_file, refusal
from difflax.pretrained.single_file.extras import V_MARK, ZERO_MARK, marked, of_networks, to_zero_snr
from difflax.pretrained.single_file.original import DENOISER, FIRST_STAGE
from difflax.pretrained.single_file.text import Beside, Tower
from difflax.text.prompts import PromptEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What may be said of a single file, which has no configs.

    Attributes:
        config: a pipeline folder or Hub id whose configs and tokenizers are taken, and the text encoders that
            the file has not; ``None`` finds the structure from the tensors' names and shapes.
        tokenizer: a folder or Hub id, of the CLIPs; ``None`` takes ``config``'s, or CLIP's own from the Hub.
        prediction_type: ``"epsilon"`` or ``"v_prediction"``, which 2.x files do not tell; ``None``: v
            prediction where the file is marked by a tensor ``v_pred``.
        zero_terminal_snr: whether the schedule ends without signal, and every run starts there ("trailing"
            steps); ``None``: where the file is marked by a tensor ``ztsnr``.
    """

    config: epath.PathLike | None = None
    tokenizer: epath.PathLike | None = None
    prediction_type: str | None = None
    zero_terminal_snr: bool | None = None

    def check_unused(self, source: epath.PathLike) -> None:
        """Refuses them where ``source`` is no single file."""
        for name, value in dataclasses.asdict(self).items():
            if value is not None:
                shown = repr(value if isinstance(value, bool) else os.fspath(value))
                raise UserError(f"{name}={shown} is for a single file, {source} is none")


def load_file(
    path: epath.Path,
    options: EncoderOptions,
    single: FileOptions,
    place: Callable[[Params], Params] | None = None,
) -> Checkpoint:
    """The checkpoint in one file.

    Args:
        path: a ``.safetensors`` file.
        options: of the text encoders; ``variant``: of the weights of ``single.config``.
        place: shapes of the denoising network's parameters to their shardings, see `from_torch`.

    Raises:
        UserError: a file that is damaged, of another family, or does not fit the configs; text encoders that
            are neither in it nor in ``config``.
    """
    if path.suffix in PICKLES:
        raise UserError(refusal(path))
    stored = open_file(path)
    tensors = of_networks(stored)
    family = family_of_file(tensors, path)
    original, where = family.original, f"in {path}"
    check_options(family, options, path)
    prediction_type, zero_snr = _trained(stored, single, family, path)
    config = single.config
    groups = original.grouped(tensors, path, family.title)
    found = {tower.part.name: tower for tower in original.towers if groups[tower.prefix]}
    if config is None:
        _check_encoders(family, found, path)
        given = original.infer(groups[DENOISER], groups[FIRST_STAGE], list(found.values()), prediction_type)
        folder, configs = None, Configs(family=family, **given)
    else:
        folder, configs = _read_config(family, config, found, options, path)
        if prediction_type is not None:
            scheduler = {**configs.scheduler, "prediction_type": prediction_type}
            configs = dataclasses.replace(configs, scheduler=scheduler)
    if zero_snr is not None:
        scheduler = {**configs.scheduler, "rescale_betas_zero_snr": False}
        if zero_snr:
            scheduler = to_zero_snr(configs.scheduler, original.zero_snr_scheduler, where)
        configs = dataclasses.replace(configs, scheduler=scheduler)
    denoiser = original.denoiser_names(groups[DENOISER], configs.network)
    autoencoder = original.autoencoder_names(groups[FIRST_STAGE], configs.autoencoder)
    configs.check_weights(denoiser, autoencoder, where, options.dtype)
    kept = {name: tower for name, tower in found.items() if not tower.part.left_out(options)}
    loaded = _load_text_encoders(
        configs, kept, groups, Beside(folder=folder, tokenizer=single.tokenizer), where, options
    )
    encoder = configs.join(loaded, options, where)
    entries = {}
    for name, tower in kept.items():
        if not has_component(configs.index, name):
            entries |= tower.part.entries(loaded[name])
    configs = dataclasses.replace(configs, index={**configs.index, **entries})
    return Checkpoint.read(configs, denoiser, autoencoder, encoder, where, dtype=options.dtype, place=place)


def _trained(
    stored: Tensors, single: FileOptions, family: Family, path: epath.Path
) -> tuple[str | None, bool | None]:
    """What the network predicts, and whether its schedule ends without signal: as is said, or marked, or
    ``None``.
    """
    predicts, zero_snr = marked(stored, path)
    if not family.original.asks_prediction:
        given = {"prediction_type": single.prediction_type, "zero_terminal_snr": single.zero_terminal_snr}
        for name, value in {**given, V_MARK: predicts, ZERO_MARK: zero_snr}.items():
            if value is not None:
                raise UserError(
                    f"{name}={value!r} is for files of Stable Diffusion 1.x, 2.x or XL, {path} is a"
                    f" {family.title}"
                )
    if single.zero_terminal_snr is not None:
        zero_snr = single.zero_terminal_snr
    return single.prediction_type or predicts, zero_snr


def _check_encoders(family: Family, found: Mapping[str, Tower], path: epath.Path) -> None:
    """Refuses a file that alone does not have what its pipeline must have."""
    absent = [part for part in family.text if not part.optional and part.name not in found]
    if absent:
        prefixes = [tower.prefix for tower in family.original.towers if tower.part in absent]
        raise UserError(
            f"{path} has no text encoder under {' and '.join(prefixes)}: give config=FOLDER_OR_HUB_ID of a"
            f" pipeline in diffusers' layout that has {' and '.join(part.name for part in absent)}, such as"
            f" {family.original.example}"
        )


def _read_config(
    family: Family,
    config: epath.PathLike,
    found: Mapping[str, Tower],
    options: EncoderOptions,
    path: epath.Path,
) -> tuple[epath.Path, Configs]:
    """The pipeline folder that is given beside a file, with the encoders that the file has not."""
    wanted = [p.name for p in family.text if p.name not in found and not p.left_out(options)]
    folder = download(config, variant=options.variant, weights=wanted)
    configs = read_configs(folder)
    if configs.family != family:
        raise UserError(f"config={config}: no {INDEX} of a {family.title}, which {path} is")
    return folder, configs


def _load_text_encoders(
    configs: Configs,
    found: Mapping[str, Tower],
    groups: Mapping[str, Tensors],
    beside: Beside,
    where: str,
    options: EncoderOptions,
) -> dict[str, PromptEncoder]:
    """The encoders by name, in their order, each of the file where it is there, otherwise of the folder."""
    family, folder, loaded = configs.family, beside.folder, {}
    if folder is not None:
        others = [part for part in family.text if part.name not in found]
        loaded = load_text_encoders(folder, others, configs.index, family.title, options)
    for name, tower in found.items():
        known = has_component(configs.index, name)
        own = beside if known else dataclasses.replace(beside, folder=None)
        loaded[name] = tower.load(groups[tower.prefix], own, where, options)
    return {part.name: loaded[part.name] for part in family.text if part.name in loaded}
