"""A contrastive CLIP's run: its tokenizer, objective and files."""

import itertools
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree

from difflax.config.experiments import CLIPExperiment
from difflax.config.files import claim_workdir
from difflax.config.sections import ContrastiveLoss, clip_with_tokenizer
from difflax.models.functional import functional
from difflax.parallel.sharding import fetch
from difflax.pretrained.components.clip import save_clip
from difflax.runs.base import make_loader
from difflax.text.clip_config import CLIPConfig
from difflax.text.joint import CLIP, clip_network
from difflax.text.pixels import PixelConfig
from difflax.text.reconstruction import CaptionDecoder
from difflax.text.tokenizer import load_tokenizer, train_bpe
from difflax.training.loop import Task
from difflax.training.objectives.base import network_params
from difflax.training.objectives.contrastive import Contrastive, Reconstruction
from difflax.training.state import TrainState

TOKENIZER_CAPTIONS = 100_000
"""Captions that a tokenizer is trained on, the first of the data."""


def prepare_clip(experiment: CLIPExperiment, workdir: epath.Path) -> Task:
    """The loop's parts; the finished run writes ``workdir/clip`` in the Hub's layout."""
    claim_workdir(workdir, experiment)
    loader = make_loader(experiment)
    options, folder = experiment.tokenizer, workdir / "tokenizer"
    if folder.exists():
        tokenizer = load_tokenizer(folder, max_length=options.max_length)
    else:
        tokenizer = train_bpe(
            itertools.islice(loader.captions, TOKENIZER_CAPTIONS),
            folder,
            vocab_size=options.vocab_size,
            max_length=options.max_length,
        )
    network_config = clip_with_tokenizer(experiment.model, tokenizer, options.max_length)
    objective = clip_objective(network_config, experiment.loss)

    def prepare(batch: dict[str, Any]) -> PyTree:
        captions = batch["caption"]
        # Of 32 bits: once in half a million batches of 128 two captions are taken for copies of each other.
        ids = np.array([zlib.crc32(caption.encode()) for caption in captions], np.uint32).view(np.int32)
        return {"image": batch["image"], "input_ids": tokenizer(captions), "caption_id": ids}

    def finish(state: TrainState) -> None:
        params = network_params(fetch(state.ema_params))
        if jax.process_index() == 0:
            save_clip(CLIP(params, network_config, tokenizer, objective.pixels), workdir / "clip")

    return Task(objective=objective, loader=loader, prepare=prepare, finish=finish)


def clip_objective(config: CLIPConfig, loss: ContrastiveLoss) -> Contrastive:
    """What a CLIP of this structure is trained for."""
    text, also = config.text_config, None
    if loss.reconstruction:
        also = Reconstruction(
            weight=loss.reconstruction,
            decoder=functional(lambda rngs: CaptionDecoder(text, rngs=rngs)),
            eos_token_id=text.eos_token_id,
        )
    pixels = PixelConfig(size=config.vision_config.image_size)
    return Contrastive(model=clip_network(config), pixels=pixels, reconstruction=also)
