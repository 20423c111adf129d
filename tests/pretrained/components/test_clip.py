"""Folders of the Hub: written here and read by transformers, and the other way round."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.pretrained.components.clip import (
    load_clip,
    load_text_encoder,
    save_clip,
    save_text_encoder,
)
from difflax.text.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from difflax.text.joint import CLIP, clip_network
from difflax.text.pixels import PixelConfig
from difflax.text.tokenizer import MIN_VOCAB_SIZE, train_bpe

CAPTIONS = ["a red circle", "", "two large squares"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_bpe(CAPTIONS, directory, vocab_size=MIN_VOCAB_SIZE + 20, max_length=12)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    last = tokenizer.vocab_size - 1
    text = CLIPTextConfig(
        vocab_size=last + 1,
        max_position_embeddings=12,
        bos_token_id=last - 1,
        eos_token_id=last,
        pad_token_id=last,
        projection_dim=10,
        hidden_act="gelu",
        **sizes,
    )
    vision = CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=10, hidden_act="gelu", **sizes)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    params = jax.jit(clip_network(config).init)(jax.random.key(0))
    return CLIP(params=params, config=config, tokenizer=tokenizer, pixels=PixelConfig(size=16))


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    directory = tmp_path_factory.mktemp("clip")
    save_clip(clip, directory)
    return directory


@pytest.fixture
def copy(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def images():
    return np.random.default_rng(0).random((2, 16, 16, 3), np.float32)


def test_a_clip_comes_back_bit_for_bit(clip, folder):
    again = load_clip(folder)
    assert_same(again.params, clip.params)
    assert (again.config, again.pixels) == (clip.config, clip.pixels)
    assert again.tokenizer.fingerprint() == clip.tokenizer.fingerprint()


@pytest.mark.parametrize("projection", [True, False])
def test_a_text_encoder_comes_back_bit_for_bit(clip, tmp_path, projection):
    encoder = clip.text_encoder()
    if not projection:
        encoder = encoder.replace(params={"text_model": encoder.params["text_model"]})
    save_text_encoder(encoder, tmp_path)
    again = load_text_encoder(tmp_path)
    assert_same(again.params, encoder.params)
    assert again.fingerprint() == encoder.fingerprint()


def test_the_text_encoder_of_a_clip_folder(clip, folder):
    again = load_text_encoder(folder, layer=-2, final_norm=False, dtype=jnp.bfloat16)
    assert (
        again.fingerprint()
        == clip.replace(dtype=jnp.bfloat16).text_encoder(layer=-2, final_norm=False).fingerprint()
    )


@pytest.mark.parity
def test_transformers_reads_a_clip_and_computes_the_same_features(clip, folder):
    torch = pytest.importorskip("torch")
    import transformers

    theirs, report = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = transformers.models.clip.CLIPImageProcessorPil.from_pretrained(folder)
    text = tokenizer(CAPTIONS, padding="max_length", return_tensors="pt")
    pictures = (images() * 255).round().astype(np.uint8)
    with torch.no_grad():
        out = theirs(text["input_ids"], pixels(list(pictures), return_tensors="pt")["pixel_values"])
    np.testing.assert_allclose(clip.text_features(CAPTIONS), out.text_embeds, atol=1e-5)
    np.testing.assert_allclose(clip.image_features(pictures / np.float32(255)), out.image_embeds, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_text_encoders_go_to_transformers_and_come_back(clip, tmp_path, name):
    torch = pytest.importorskip("torch")
    import transformers

    encoder = clip.text_encoder()
    if name == "CLIPTextModel":
        encoder = encoder.replace(params={"text_model": encoder.params["text_model"]})
    save_text_encoder(encoder, tmp_path)
    kind = getattr(transformers, name)
    theirs, report = kind.from_pretrained(tmp_path / "text_encoder", output_loading_info=True)
    assert not any(report.values())
    ids = torch.from_numpy(encoder.tokenizer(CAPTIONS)).long()
    with torch.no_grad():
        out = theirs(ids)
    condition = encoder.encode(CAPTIONS)
    np.testing.assert_allclose(condition.context, out.last_hidden_state, atol=1e-5)
    pooled = out.pooler_output if name == "CLIPTextModel" else out.text_embeds
    np.testing.assert_allclose(condition.pooled, pooled, atol=1e-5)
    # transformers 5 leaves the prefix of a bare text tower out.
    theirs.save_pretrained(tmp_path / "text_encoder")
    assert_same(load_text_encoder(tmp_path).params, encoder.params)


def test_position_indices_of_old_files_are_no_weights(clip, copy):
    edit(copy, lambda tensors: tensors | {"text_model.embeddings.position_ids": np.arange(12)[None]})
    assert_same(load_clip(copy).params, clip.params)


def edit(folder, change):
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path)


NORM, TOKENS = "text_model.final_layer_norm.weight", "text_model.embeddings.token_embedding.weight"


class TestMistakes:
    def test_every_tensor_that_does_not_fit_is_named(self, copy):
        def change(tensors):
            del tensors[NORM]
            return tensors | {"new": np.zeros(3, np.float32), TOKENS: np.zeros((3, 16), np.float32)}

        edit(copy, change)
        with pytest.raises(UserError) as caught:
            load_clip(copy)
        message = str(caught.value)
        assert f"missing {NORM}" in message
        assert "unexpected new" in message
        assert f"{TOKENS} has shape (3, 16) and not" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("config.json", None, "no config.json"),
            ("config.json", b"{", "not valid JSON"),
            ("model.safetensors", None, "no model.safetensors"),
            ("model.safetensors", b"\xff" * 40, "not a readable safetensors"),
            ("preprocessor_config.json", None, "no preprocessor_config.json"),
        ],
    )
    def test_broken_folders(self, copy, name, content, message):
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_clip(copy)

    def test_a_cut_file(self, copy):
        path = copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UserError, match="not a readable safetensors"):
            load_clip(copy)

    @pytest.mark.parametrize("load", [load_clip, load_text_encoder])
    def test_another_model(self, copy, load):
        fields = json.loads((copy / "config.json").read_text()) | {"model_type": "t5"}
        (copy / "config.json").write_text(json.dumps(fields))
        with pytest.raises(UserError, match="'t5' model"):
            load(copy)
