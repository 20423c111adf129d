"""The T5 encoder against transformers (PyTorch), and what reads prompts with it."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.pretrained.components.t5 import load_t5_encoder, save_t5_encoder
from difflax.pretrained.format.safetensors import write_file
from difflax.text.joined import JoinedEncoder
from difflax.text.prompts import PromptEncoder, encode_prompts
from difflax.text.t5 import FEED_FORWARDS, T5Config, relative_buckets, t5_network
from difflax.text.t5_encoder import T5Encoder, ZeroEncoder

from tests.fixtures.make_stable_diffusion_3 import DIRECTORY, T5

IDS = np.random.default_rng(0).integers(3, 40, (2, 21)).astype(np.int32)
MASK = np.arange(21)[None] < np.asarray([[21], [9]])
SMALL = T5 | {"vocab_size": 128}


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def pair(request, tmp_path_factory):
    """A T5 folder that transformers wrote, in two shards, and its model."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(**SMALL | {"feed_forward_proj": request.param, "num_layers": 2})
    model = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model, folder


def states(model, ids, mask=None):
    import torch

    with torch.no_grad():
        given = {} if mask is None else {"attention_mask": torch.from_numpy(mask).long()}
        return model(torch.from_numpy(ids).long(), **given).last_hidden_state.float().numpy()


@pytest.mark.parity
def test_states_are_those_of_transformers(pair):
    model, folder = pair
    config = T5Config.from_config(json.loads((folder / "config.json").read_text()))
    encoder = load_t5_encoder(folder, DIRECTORY / "tokenizer_3", max_length=16)
    assert encoder.config == config
    for mask in (None, MASK):
        ours = jax.jit(t5_network(config).apply)(encoder.params, IDS, mask)
        theirs = states(model, IDS, mask)
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    # bfloat16 costs no more than it costs them.
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), encoder.params)
    ours = np.asarray(jax.jit(t5_network(config, jnp.bfloat16).apply)(half, IDS), np.float32)
    exact, theirs = states(model, IDS), states(copy.deepcopy(model).bfloat16(), IDS)
    assert np.linalg.norm(ours - exact) <= 1.2 * np.linalg.norm(theirs - exact)


@pytest.mark.parity
def test_every_pair_of_positions_is_in_the_bucket_of_transformers():
    torch = pytest.importorskip("torch")
    from transformers.models.t5.modeling_t5 import T5Attention

    for count, farthest in ((32, 128), (8, 20)):
        offsets = torch.arange(600)[None] - torch.arange(600)[:, None]
        theirs = T5Attention._relative_position_bucket(offsets, True, count, farthest)
        np.testing.assert_array_equal(relative_buckets(600, count, farthest), theirs.numpy())


def test_float16_overflows_nowhere():
    """Feed-forwards whose outputs are beyond float16, as those of the trained encoders are."""
    config = T5Config(**SMALL)
    params = jax.jit(t5_network(config).init)(jax.random.key(0))
    for block in params["encoder"]["block"].values():
        block["layer"]["1"]["DenseReluDense"]["wo"]["kernel"] *= 8e4
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params)
    exact, ours = (
        np.asarray(jax.jit(t5_network(config, dtype).apply)(p, IDS), np.float32)
        for dtype, p in ((jnp.float32, params), (jnp.float16, half))
    )
    assert np.linalg.norm(ours - exact) <= 0.02 * np.linalg.norm(exact)


@pytest.fixture(scope="module")
def encoder():
    return load_t5_encoder(
        DIRECTORY / "text_encoder_3", DIRECTORY / "tokenizer_3", max_length=12, variant="fp16"
    )


def test_prompts_of_any_length(encoder):
    assert isinstance(encoder, PromptEncoder) and isinstance(ZeroEncoder(length=3, width=4), PromptEncoder)
    short, long = "a red cat", "two dogs and three birds in the rain " * 3
    rows = encoder.tokenizer([short])
    assert rows.shape == (1, 12) and 1 in rows[0] and rows[0][-1] == 0
    made = encoder.encode([short, ""])
    assert made.context.shape == (2, 12, encoder.width) and made.pooled is None
    assert np.abs(made.context[0] - made.context[1]).max() > 0.1
    with pytest.warns(UserWarning, match="is cut to 12; lost: .*rain"):
        cut = encode_prompts(encoder, [long], weighted=True)
    pieces = encoder.count_pieces([long], weighted=False)
    whole = encode_prompts(encoder, [long, short], chunked=True)
    assert whole.context.shape == (2, 12 * pieces, encoder.width) and cut.context.shape[1] == 12
    np.testing.assert_allclose(
        encode_prompts(encoder, [short], weighted=True).context, made.context[:1], atol=1e-5
    )


def test_zeros_stand_in_for_it():
    zeros = ZeroEncoder(length=5, width=6)
    joined = JoinedEncoder((zeros, zeros), along="tokens", pooled=())
    np.testing.assert_array_equal(joined.encode(["a", "b"]).context, np.zeros((2, 10, 6)))
    assert zeros.fingerprint() != ZeroEncoder(length=6, width=6).fingerprint()


def test_it_is_saved_and_read_back(encoder, tmp_path):
    save_t5_encoder(encoder, tmp_path / "text_encoder_3", tmp_path / "tokenizer_3")
    again = load_t5_encoder(tmp_path / "text_encoder_3", tmp_path / "tokenizer_3", max_length=12)
    assert again.fingerprint() == encoder.fingerprint()


def test_a_whole_t5_and_both_names_of_its_table(encoder, tmp_path):
    from difflax.pretrained.format.torch_names import to_torch

    tensors = dict(to_torch(encoder.params))
    table = tensors["shared.weight"]
    more = {"decoder.final_layer_norm.weight": table, "lm_head.weight": table}
    for name, stored in {
        "both": tensors | more | {"encoder.embed_tokens.weight": table},
        "other": {n: t for n, t in tensors.items() if n != "shared.weight"}
        | {"encoder.embed_tokens.weight": table},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(encoder.config.to_config()))
        write_file(tmp_path / name / "model.safetensors", stored)
        again = load_t5_encoder(tmp_path / name, DIRECTORY / "tokenizer_3", max_length=12)
        assert again.fingerprint() == encoder.fingerprint()


def test_what_does_not_fit_is_one_line(encoder, tmp_path):
    with pytest.raises(UserError, match=f"gated-tanh.*{'.*'.join(FEED_FORWARDS)}"):
        T5Config(feed_forward_proj="gated-tanh")
    with pytest.raises(UserError, match="they do not belong together"):
        T5Encoder(params={}, config=T5Config(vocab_size=10), tokenizer=encoder.tokenizer)
    (tmp_path / "config.json").write_text('{"model_type": "clip_text_model"}')
    with pytest.raises(UserError, match="a T5 is needed"):
        load_t5_encoder(tmp_path, DIRECTORY / "tokenizer_3", max_length=12)
