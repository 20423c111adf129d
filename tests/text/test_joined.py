"""Several text encoders read as one."""

import jax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.text.clip_config import CLIPTextConfig
from difflax.text.encoders import TextEncoder, text_network
from difflax.text.joined import JoinedEncoder
from difflax.text.prompts import PromptEncoder, encode_prompts
from difflax.text.tokenizer import Tokenizer, load_tokenizer, train_bpe

LONG = "red blue green yellow red blue green yellow red blue green yellow cat"
PROMPTS = ["a (red:1.4) cat", "", LONG]


def tower(folder, width, *, pad, projection, seed):
    tokenizer = load_tokenizer(folder)
    tokenizer.backend.pad_token = pad
    config = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=6,
        eos_token_id=tokenizer.backend.eos_token_id,
    )
    params = jax.jit(text_network(config, projection).init)(jax.random.key(seed))
    return TextEncoder(params=params, config=config, tokenizer=tokenizer, layer=-2, final_norm=False)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe([LONG] * 3, folder, vocab_size=600, max_length=12)
    first = tower(folder, 8, pad="<|endoftext|>", projection=False, seed=0)
    second = tower(folder, 16, pad="!", projection=True, seed=1)
    return first, second


@pytest.fixture(scope="module")
def xl(parts):
    return JoinedEncoder(parts, along="features", pooled=(1,))


def test_the_parts_are_prompt_encoders(parts, xl):
    for encoder in (*parts, xl):
        assert isinstance(encoder, PromptEncoder)
        made = encoder.encode([""])
        assert (made.context.shape[-1], made.pooled.shape[-1]) == (encoder.width, encoder.pooled_width)


def test_states_side_by_side_and_the_second_pooled_vector(parts, xl):
    first, second = (part.encode(PROMPTS) for part in parts)
    made = xl.encode(PROMPTS)
    np.testing.assert_array_equal(made.context[..., :8], first.context)
    np.testing.assert_array_equal(made.context[..., 8:], second.context)
    np.testing.assert_array_equal(made.pooled, second.pooled)


def test_each_tower_has_its_own_padding(parts):
    """SDXL's second tokenizer fills with id 0, the first with the end of text."""
    rows = [part.tokenizer(["red"])[0] for part in parts]
    end = parts[0].tokenizer.backend.eos_token_id
    assert rows[0][-1] == end
    assert rows[1][-1] == 0
    np.testing.assert_array_equal(rows[0][: list(rows[0]).index(end) + 1], rows[1][rows[1] != 0])


@pytest.mark.parametrize("weighted", [False, True])
def test_long_and_weighted_prompts_are_those_of_the_parts(parts, xl, weighted):
    made = encode_prompts(xl, PROMPTS, weighted=weighted, chunked=True)
    first, second = (encode_prompts(part, PROMPTS, weighted=weighted, chunked=True) for part in parts)
    assert made.context.shape == (3, 24, 24)
    np.testing.assert_array_equal(made.context, np.concatenate([first.context, second.context], -1))
    np.testing.assert_array_equal(made.pooled, second.pooled)


def test_tokens_one_after_the_other_with_the_narrower_filled_up(parts, xl):
    """Stable Diffusion 3's form; its wide third encoder stands last."""
    both = JoinedEncoder(parts, along="features", pooled=(0, 1))
    wide = tower_of_width(parts[0], 32)
    three = JoinedEncoder((both, wide), along="tokens", pooled=(0,))
    made = three.encode(PROMPTS)
    assert made.context.shape == (3, 24, 32)
    np.testing.assert_array_equal(made.context[:, :12, :24], xl.encode(PROMPTS).context)
    np.testing.assert_array_equal(made.context[:, :12, 24:], 0)
    np.testing.assert_array_equal(made.context[:, 12:], wide.encode(PROMPTS).context)
    pooled = [part.encode(PROMPTS).pooled for part in parts]
    np.testing.assert_array_equal(made.pooled, np.concatenate(pooled, -1))


def tower_of_width(encoder, width):
    config = CLIPTextConfig.from_config(
        encoder.config.to_config() | {"hidden_size": width, "num_hidden_layers": 1}
    )
    return encoder.replace(config=config, params=text_network(config, False).init(jax.random.key(2)))


def test_fingerprint(parts, xl):
    others = [
        xl,
        JoinedEncoder(parts, along="features", pooled=(0, 1)),
        JoinedEncoder(parts, along="tokens", pooled=(1,)),
        JoinedEncoder(parts[::-1], along="features", pooled=(1,)),
        JoinedEncoder((parts[0], parts[1].replace(layer=-1)), along="features", pooled=(1,)),
    ]
    assert len({encoder.fingerprint() for encoder in others}) == len(others)


def test_what_does_not_fit_is_refused(parts):
    with pytest.raises(UserError, match="pooled vector"):
        JoinedEncoder(parts, along="features", pooled=(2,))
    tokenizer = Tokenizer(backend=parts[0].tokenizer.backend, max_length=6)
    short = parts[0].replace(tokenizer=tokenizer)
    with pytest.raises(UserError, match="of 6 and 12 tokens"):
        JoinedEncoder((short, parts[1]), along="features", pooled=()).encode(["red"])


def test_it_is_a_pytree_of_its_weights(parts, xl):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, xl)
    assert isinstance(doubled, JoinedEncoder)
    assert len(jax.tree.leaves(doubled)) == sum(len(jax.tree.leaves(part.params)) for part in parts)
