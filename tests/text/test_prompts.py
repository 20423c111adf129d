"""Prompts with weights, and prompts that are too long."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.text.clip_config import CLIPTextConfig
from difflax.text.encoders import TextEncoder, text_network
from difflax.text.prompts import encode_prompts, parse_segments
from difflax.text.tokenizer import train_bpe

LONG = "red blue green yellow red blue green yellow red blue green yellow cat"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_bpe([LONG] * 3, folder, vocab_size=600, max_length=12)
    backend = tokenizer.backend
    config = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=backend.bos_token_id,
        eos_token_id=backend.eos_token_id,
        pad_token_id=backend.pad_token_id,
    )
    params = text_network(config, False).init(jax.random.key(0))
    # As in a trained tower, the states' mean is not zero.
    params["text_model"]["final_layer_norm"]["bias"] += 0.3
    return TextEncoder(params=params, config=config, tokenizer=tokenizer, batch_size=4)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("a [red] cat", [("a ", 1.0), ("red", 1 / 1.1), (" cat", 1.0)]),
        ("((red)) cat", [("red", 1.1 * 1.1), (" cat", 1.0)]),
        ("(a (red:2) cat:0.5)", [("a ", 0.5), ("red", 1.0), (" cat", 0.5)]),
        (r"a \(red\) cat", [("a (red) cat", 1.0)]),
        ("time: 12:30, ok", [("time: 12:30, ok", 1.0)]),
        ("(weight 0:0)", [("weight 0", 0.0)]),
        ("", []),
    ],
)
def test_weights(prompt, pieces):
    (made,) = parse_segments(prompt)
    assert [text for text, _ in made] == [text for text, _ in pieces]
    np.testing.assert_allclose([w for _, w in made], [w for _, w in pieces], rtol=1e-12)


A1111 = [
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            *[("a ", 1.0), ("house", 1.5730000000000004), (" ", 1.1), ("on", 1.0), (" a ", 1.1)],
            *[("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641000000000006), (".", 1.1)],
        ],
    ),
]
"""The examples in the docstring of ``parse_prompt_attention``, by which A1111 states its grammar."""


@pytest.mark.parametrize(("prompt", "pieces"), A1111)
def test_the_examples_of_a1111s_grammar(prompt, pieces):
    (made,) = parse_segments(prompt)
    assert [text for text, _ in made] == [text for text, _ in pieces]
    np.testing.assert_allclose([w for _, w in made], [w for _, w in pieces], rtol=1e-12)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a (red", [("a ", 1.0), ("red", 1.1)]),
        ("a red)", [("a red)", 1.0)]),
        ("[a", [("a", 1 / 1.1)]),
        ("a]", [("a]", 1.0)]),
        ("(a]", [("a]", 1.1)]),
        ("a:1.3)", [("a:1.3)", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("[(a])", [("a", 1.0)]),
        (":) a cat (:", [(":) a cat ", 1.0), (":", 1.1)]),
        ("back\\slash", [("backslash", 1.0)]),
        ("((", []),
        ("(a:-.5)", [("a", -0.5)]),
    ],
)
def test_stray_brackets_are_read_as_a1111_reads_them(prompt, pieces):
    """One that is never closed reaches to the end; one that closes nothing is text."""
    (made,) = parse_segments(prompt)
    assert [text for text, _ in made] == [text for text, _ in pieces]
    np.testing.assert_allclose([w for _, w in made], [w for _, w in pieces], rtol=1e-12)


def test_the_next_piece_after_a_break(encoder):
    """As if both parts had been encoded alone; where all is one piece, a break is a space."""
    made = encode_prompts(encoder, ["(red BREAK blue:1.0) cat", "red"], weighted=True, chunked=True)
    assert made.context.shape == (2, 24, 16)
    alone = encode_prompts(encoder, ["red", "blue cat", ""], weighted=True)
    np.testing.assert_allclose(made.context[0, :12], alone.context[0], atol=1e-6)
    np.testing.assert_allclose(made.context[0, 12:], alone.context[1], atol=1e-6)
    np.testing.assert_allclose(made.context[1, 12:], alone.context[2], atol=1e-6)
    one, spaced = (encode_prompts(encoder, [p], weighted=True).context for p in ("red BREAK cat", "red cat"))
    np.testing.assert_allclose(one, spaced, atol=1e-6)
    # Without weights it is a word, as everything else.
    plain = encode_prompts(encoder, ["red BREAK cat"], chunked=True).context
    assert np.abs(plain - spaced).max() > 1e-3


def test_without_weights_and_short_it_is_the_plain_encoding(encoder):
    prompts = ["red cat", ""]
    plain = encoder.encode(prompts)
    for settings in ({}, {"weighted": True}, {"chunked": True}):
        made = encode_prompts(encoder, prompts, **settings)
        np.testing.assert_allclose(made.context, plain.context, atol=1e-6)
        np.testing.assert_allclose(made.pooled, plain.pooled, atol=1e-6)


def test_a_weight_multiplies_its_tokens_and_keeps_the_mean(encoder):
    plain = np.asarray(encoder.encode(["red cat"]).context[0])
    made = np.asarray(encode_prompts(encoder, ["(red:1.5) cat"], weighted=True).context[0])
    red = len(encoder.tokenizer.backend("red", add_special_tokens=False)["input_ids"])
    weights = np.ones(12)
    weights[1 : 1 + red] = 1.5
    ratio = made / plain
    np.testing.assert_allclose(ratio / ratio[0], np.broadcast_to(weights[:, None], ratio.shape), rtol=1e-3)
    assert made.mean() == pytest.approx(plain.mean(), rel=1e-4)


def test_a_long_prompt_is_cut_with_a_warning_that_shows_the_cut(encoder):
    with pytest.warns(UserWarning, match="is cut to 12; lost: .*cat"):
        made = encode_prompts(encoder, [LONG])
    assert made.context.shape == (1, 12, 16)
    with pytest.warns(UserWarning, match="cut to 12"):
        np.testing.assert_allclose(made.context, encoder.encode([LONG]).context, atol=1e-6)


def test_pieces_are_encoded_one_by_one_and_joined(encoder):
    made = encode_prompts(encoder, [LONG, "red"], chunked=True)
    backend = encoder.tokenizer.backend
    ids = backend(LONG, add_special_tokens=False)["input_ids"]
    count = -(-len(ids) // 10)
    assert made.context.shape == (2, 12 * count, 16)
    last = ids[10 * (count - 1) :]
    row = [backend.bos_token_id, *last, backend.eos_token_id, *[backend.pad_token_id] * (10 - len(last))]
    alone = encoder.condition_ids(jnp.asarray([row]))
    np.testing.assert_allclose(made.context[0, -12:], alone.context[0], atol=1e-6)
    np.testing.assert_allclose(made.context[1, -12:], encoder.encode([""]).context[0], atol=1e-6)


def test_the_length_of_a_batch_has_no_part_in_it(encoder):
    small = dataclasses.replace(encoder, batch_size=1)
    a, b = (encode_prompts(e, [LONG, "red"], chunked=True, weighted=True) for e in (encoder, small))
    np.testing.assert_allclose(a.context, b.context, atol=1e-6)
