"""Learned words against diffusers (PyTorch): the same file gives the same states of the same prompt."""

import difflax
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.pretrained.adapters.textual_inversion import (
    FILE,
    add_token,
    embedding_table,
    read_embeddings,
    save_embeddings,
)
from difflax.pretrained.components.clip import load_text_encoder, save_text_encoder

from tests.fixtures import make_stable_diffusion as reference
from tests.runs import count_tokens

PROMPT = "a photograph of <thing> and a red cat, <thing>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.build("sd15", tmp_path_factory.mktemp("checkpoint") / "sd15")


@pytest.fixture(scope="module")
def encoder(folder):
    return load_text_encoder(folder, variant="fp16", batch_size=1)


def rows(vectors, width=24):
    return np.random.default_rng(vectors).standard_normal((vectors, width)).astype(np.float32)


@pytest.mark.parity
@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_reads_the_file_and_says_the_same(folder, encoder, tmp_path, vectors):
    torch = pytest.importorskip("torch")
    import diffusers

    save_embeddings(tmp_path / FILE, "<thing>", rows(vectors))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, variant="fp16", torch_dtype=torch.float32
    )
    theirs.load_textual_inversion(tmp_path)
    with torch.no_grad():
        expected, _ = theirs.encode_prompt(PROMPT, "cpu", 1, False)
    ours = add_token(encoder, *read_embeddings(tmp_path))
    made = np.asarray(ours.encode([PROMPT]).context)
    assert np.abs(made - expected.numpy()).max() / np.abs(expected.numpy()).max() < 1e-4
    assert np.abs(made - np.asarray(encoder.encode([PROMPT]).context)).max() > 0.1


def test_a_word_of_three_vectors_takes_three_places(encoder):
    ours = add_token(encoder, "<thing>", rows(3))
    size = encoder.tokenizer.vocab_size
    ids = ours.tokenizer(["<thing>"])[0]
    assert ids[1:4].tolist() == [size, size + 1, size + 2]
    np.testing.assert_array_equal(embedding_table(ours.params)[-3:], rows(3))
    np.testing.assert_array_equal(embedding_table(ours.params)[:-3], embedding_table(encoder.params)[:size])
    # Other prompts are read as before.
    np.testing.assert_array_equal(ours.tokenizer(["a red cat"]), encoder.tokenizer(["a red cat"]))


def test_an_encoder_with_learned_words_is_saved_and_read_again(encoder, tmp_path):
    ours = add_token(encoder, "<thing>", rows(2))
    save_text_encoder(ours, tmp_path)
    again = load_text_encoder(tmp_path, batch_size=1)
    np.testing.assert_array_equal(again.tokenizer([PROMPT]), ours.tokenizer([PROMPT]))
    np.testing.assert_array_equal(embedding_table(again.model.params), embedding_table(ours.params))


def test_another_name_may_be_given(tmp_path):
    save_embeddings(tmp_path / FILE, "<thing>", rows(1))
    assert read_embeddings(tmp_path, "<other>")[0] == "<other>"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": np.zeros((1, 24)), "b": np.zeros((1, 24))}, "no textual inversion"),
        ({"a": np.zeros((1, 1, 24))}, "no textual inversion"),
        ({"a": np.full((1, 24), np.inf)}, "not finite"),
    ],
)
def test_files_that_are_none(tmp_path, tensors, says):
    safetensors.numpy.save_file({k: v.astype(np.float32) for k, v in tensors.items()}, tmp_path / FILE)
    with pytest.raises(UserError, match=says):
        read_embeddings(tmp_path)


def test_words_that_do_not_fit(encoder, tmp_path):
    with pytest.raises(UserError, match="already in the vocabulary"):
        add_token(encoder, "!", rows(1))
    with pytest.raises(UserError, match=r"width 16.*have 24"):
        add_token(encoder, "<thing>", rows(1, width=16))
    with pytest.raises(UserError, match="pickle"):
        read_embeddings(tmp_path / "learned_embeds.bin")


def test_a_pipeline_with_a_learned_word(folder, tmp_path):
    save_embeddings(tmp_path / FILE, "<thing>", rows(2))
    pipeline = difflax.from_pretrained(str(folder), variant="fp16").with_textual_inversion(tmp_path)
    assert count_tokens(pipeline.model.text_encoder.tokenizer, "<thing>") == 4
