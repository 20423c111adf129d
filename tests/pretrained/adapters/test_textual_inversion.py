"""Learned words against diffusers (PyTorch): the same file gives the same states of the same prompt."""

import os
import subprocess
import sys

import difflax
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.pretrained.adapters.textual_inversion import (
    FILE,
    add_token,
    add_word,
    embedding_table,
    read_word,
    save_embeddings,
)
from difflax.pretrained.components.clip import load_text_encoder, save_text_encoder

from tests.fixtures import make_sdxl
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
    ours = add_word(encoder, read_word(tmp_path))
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
    np.testing.assert_array_equal(embedding_table(again.params), embedding_table(ours.params))


def test_another_name_may_be_given(tmp_path):
    save_embeddings(tmp_path / FILE, "<thing>", rows(1))
    assert read_word(tmp_path, "<other>").token == "<other>"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": np.zeros((1, 24)), "b": np.zeros((1, 24))}, "no textual inversion"),
        ({"a": np.zeros((1, 1, 24))}, "no textual inversion"),
        ({"a": np.zeros((0, 24))}, "no textual inversion"),
        ({"clip_l": np.zeros((1, 24)), "t5xxl": np.zeros((1, 24))}, "2 tensors .clip_l, t5xxl"),
        ({"a": np.full((1, 24), np.inf)}, "not finite"),
    ],
)
def test_files_that_are_none(tmp_path, tensors, says):
    safetensors.numpy.save_file({k: v.astype(np.float32) for k, v in tensors.items()}, tmp_path / FILE)
    with pytest.raises(UserError, match=says):
        read_word(tmp_path)


def test_words_that_do_not_fit(encoder, tmp_path):
    with pytest.raises(UserError, match="already in the vocabulary"):
        add_token(encoder, "!", rows(1))
    with pytest.raises(UserError, match=r"width 16.*have 24"):
        add_token(encoder, "<thing>", rows(1, width=16))
    with pytest.raises(UserError, match="pickle"):
        read_word(tmp_path / "learned_embeds.bin")


def test_a_pipeline_with_a_learned_word(folder, tmp_path):
    save_embeddings(tmp_path / FILE, "<thing>", rows(2))
    pipeline = difflax.from_pretrained(str(folder), variant="fp16").with_textual_inversion(tmp_path)
    assert count_tokens(pipeline.model.text_encoder.tokenizer, "<thing>") == 4


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return make_sdxl.build("base", tmp_path_factory.mktemp("checkpoint") / "base")


def write(path, **tensors):
    safetensors.numpy.save_file({name: tensor.astype(np.float32) for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("name", ["EasyNegative", "bad-hands-5", "<thing>"])
@pytest.mark.parametrize("key", ["emb_params", "*"])
def test_a1111s_file_is_named_as_its_token(encoder, tmp_path, name, key):
    """In a prompt the word is its vectors, whatever its case, and the rest of the prompt is as it was."""
    path = write(tmp_path / f"{name}.safetensors", **{key: rows(2)})
    ours = add_word(encoder, read_word(path))
    size, plain = encoder.tokenizer.vocab_size, encoder.tokenizer(["a red cat"])[0]
    ids = ours.tokenizer([f"a {name} red cat"])[0]
    assert ids[:7].tolist() == [plain[0], plain[1], size, size + 1, *plain[2:5]]
    np.testing.assert_array_equal(embedding_table(ours.params)[-2:], rows(2))


@pytest.mark.parity
@pytest.mark.parametrize("vectors", [1, 3])
def test_a_word_of_two_text_encoders_is_as_in_diffusers(xl, tmp_path, vectors):
    torch = pytest.importorskip("torch")
    import diffusers

    given = {"clip_l": rows(vectors, 24), "clip_g": rows(vectors + 10, 32)[:vectors]}
    path = write(tmp_path / "<thing>.safetensors", **given)
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(
        xl, variant="fp16", torch_dtype=torch.float32
    )
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        theirs.load_textual_inversion(
            {"<thing>": torch.from_numpy(given[name])},
            text_encoder=getattr(theirs, f"text_encoder{suffix}"),
            tokenizer=getattr(theirs, f"tokenizer{suffix}"),
        )
    with torch.no_grad():
        expected, _, pooled, _ = theirs.encode_prompt(PROMPT, device="cpu", do_classifier_free_guidance=False)
    pipeline = difflax.from_pretrained(str(xl), variant="fp16", batch_size=1)
    made = pipeline.with_textual_inversion(path).model.text_encoder.encode([PROMPT])
    for ours, reference_of in ((made.context, expected), (made.pooled, pooled)):
        assert np.abs(np.asarray(ours) - reference_of.numpy()).max() / reference_of.abs().max() < 1e-4
    assert np.abs(made.context - pipeline.model.text_encoder.encode([PROMPT]).context).max() > 0.1
    with pytest.raises(UserError, match=r"of 1 text encoder \(24 wide\), this one has 2"):
        pipeline.with_textual_inversion(write(tmp_path / "one.safetensors", emb_params=rows(1)))


def test_a_word_of_two_text_encoders_is_none_for_one(encoder, tmp_path):
    path = write(tmp_path / "x.safetensors", clip_l=rows(1, 24), clip_g=rows(1, 32))
    with pytest.raises(UserError, match=r"of 2 text encoders \(24 and 32 wide\), this one has 1"):
        add_word(encoder, read_word(path))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["hands.pt", "learned_embeds.bin"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(encoder, tmp_path, name):
    torch = pytest.importorskip("torch")
    tensor = torch.nn.Parameter(torch.from_numpy(rows(2)))
    held = {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "name": "hands", "step": 500}
    torch.save(held if name.endswith(".pt") else {"hands": tensor.detach()}, tmp_path / name)
    with pytest.raises(UserError, match="pickle") as error:
        read_word(tmp_path / name)
    command = str(error.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True, env=os.environ)
    word = read_word((tmp_path / name).with_suffix(".safetensors"))
    assert word.token == "hands"
    np.testing.assert_array_equal(word.rows[""], rows(2))
