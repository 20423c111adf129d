"""The tokenizer against transformers, counts by hand, and the bytes of any text."""

import collections
import itertools
import json
import re
import subprocess
import sys
import unicodedata
import warnings

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.text.tokenizer import END, MIN_VOCAB_SIZE, START, load_tokenizer, train_bpe
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs import count_tokens

CAPTIONS = [
    f"{start}a {size} {colour} {shape}{end}"
    for start in ("", "there is ", "a picture of ")
    for size in ("small", "large")
    for colour in ("red", "green", "purple")
    for shape in ("circle", "square", "cross")
    for end in ("", " in the top left")
]
EDGE_CASES = [
    "",
    "   ",
    "A RED Circle",
    "a red circle, isn't it?!",
    "it's they're we've I'll I'd I'm don't",
    "tabs\tand\nnew  lines ",
    "naïve café 北京 Ελλάδα \U0001f600\u200d",
    "e\u0301 is one letter",
    "1234 3.14 x2",
    "under_score-and-dash…",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    return train_bpe(CAPTIONS, directory, vocab_size=MIN_VOCAB_SIZE + 48, max_length=16), directory


def test_writes_the_files_of_the_hub(trained):
    _, directory = trained
    names = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
    assert names <= {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("files", ["all", "slow", "fast"])
def test_transformers_reads_the_files_and_agrees(trained, tmp_path, files):
    import transformers

    ours, directory = trained
    kept = {"slow": ("tokenizer.json",), "fast": ("vocab.json", "merges.txt"), "all": ()}[files]
    for path in directory.iterdir():
        if path.name not in kept:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        ours(CAPTIONS), theirs(CAPTIONS, padding="max_length", max_length=16, truncation=True)["input_ids"]
    )
    for length in (77, 6):
        expected = theirs(EDGE_CASES, padding="max_length", max_length=length, truncation=True)["input_ids"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(load_tokenizer(tmp_path, max_length=length)(EDGE_CASES), expected)


def test_a_row_is_start_words_end_and_ends(trained):
    tokenizer, directory = trained
    vocab = json.loads((directory / "vocab.json").read_text())
    row = tokenizer(["a red circle"])[0]
    words = [vocab[word + "</w>"] for word in ("a", "red")]
    assert row.dtype == np.int32
    assert row.shape == (16,)
    assert list(row[:3]) == [vocab[START], *words]
    length = count_tokens(tokenizer, "a red circle")
    assert np.all(row[length - 1 :] == vocab[END])
    assert np.all(row[: length - 1] != vocab[END])


def test_the_empty_caption_is_start_and_ends(trained):
    tokenizer, directory = trained
    vocab = json.loads((directory / "vocab.json").read_text())
    assert tokenizer([""]).tolist() == [[vocab[START]] + [vocab[END]] * 15]
    assert count_tokens(tokenizer, "") == 2
    assert tokenizer([]).shape == (0, 16)


def test_ids_stand_in_openais_order(trained):
    """Bytes as GPT-2's table has them, the same ending a word, merges, start, end."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokenizer, directory = trained
    vocab = json.loads((directory / "vocab.json").read_text())
    tokens = sorted(vocab, key=vocab.get)
    symbols = list(bytes_to_unicode().values())
    assert tokens[:512] == symbols + [symbol + "</w>" for symbol in symbols]
    merges = (directory / "merges.txt").read_text().splitlines()[1:]
    assert tokens[512:-2] == [merge.replace(" ", "") for merge in merges]
    assert tokens[-2:] == [START, END]
    assert len(tokens) == tokenizer.vocab_size == MIN_VOCAB_SIZE + 48


def test_merges_the_most_frequent_pair_first(trained):
    _, directory = trained
    pairs = collections.Counter()
    for word in " ".join(CAPTIONS).split():
        symbols = [*word[:-1], word[-1] + "</w>"]
        pairs.update(itertools.pairwise(symbols))
    first = (directory / "merges.txt").read_text().splitlines()[1]
    assert pairs[tuple(first.split())] == max(pairs.values())


def test_a_frequent_word_becomes_one_token(trained):
    tokenizer, _ = trained
    assert count_tokens(tokenizer, "a red") == 4


def test_training_again_writes_the_same_files(trained, tmp_path):
    _, directory = trained
    train_bpe(CAPTIONS, tmp_path, vocab_size=MIN_VOCAB_SIZE + 48, max_length=16)
    for path in directory.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_few_words_make_a_small_vocabulary(tmp_path):
    tokenizer = train_bpe(["red"], tmp_path, vocab_size=5000, max_length=8)
    assert tokenizer.vocab_size == MIN_VOCAB_SIZE + 2  # "re" and "red", in one order or the other


SCRIPTS = st.characters(
    codec="utf-8", categories=("L", "N", "P", "S", "Zs"), exclude_characters="İ", max_codepoint=0x1FFFF
)


@settings(max_examples=60, deadline=None)
@given(text=st.text(SCRIPTS, max_size=20).filter(lambda text: "<|" not in text))
def test_the_bytes_of_any_text_are_in_its_tokens(trained, text):
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokenizer, _ = trained
    tokens = tokenizer.backend.convert_ids_to_tokens(tokenizer.backend(text)["input_ids"])[1:-1]
    byte = {symbol: value for value, symbol in bytes_to_unicode().items()}
    spelled = bytes(byte[symbol] for token in tokens for symbol in token.removesuffix("</w>"))
    expected = re.sub(r"\s", "", unicodedata.normalize("NFC", text))
    # Lower case by character, as in tokenizers; Python's own looks at the neighbours of a final sigma.
    assert spelled.decode() == "".join(character.lower() for character in expected)


class TestTruncation:
    def test_the_cut_text_is_shown(self, trained):
        tokenizer, _ = trained
        text = "a red circle " * 4 + "in the Top left — and MORE"
        with pytest.warns(UserWarning, match="cut to 16") as caught:
            row = tokenizer([text])[0]
        lost = re.search(r"lost: '(.*)'", str(caught[0].message)).group(1)
        assert text.endswith(lost)
        kept = text.removesuffix(lost)
        assert count_tokens(tokenizer, kept) == 16
        np.testing.assert_array_equal(tokenizer([kept])[0], row)

    def test_what_fits_gives_no_warning(self, trained):
        tokenizer, _ = trained
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tokenizer(["a " * 14])

    def test_one_string_is_no_list(self, trained):
        tokenizer, _ = trained
        with pytest.raises(TypeError):
            tokenizer("a red circle")


def test_fingerprint_is_of_the_ids(trained, tmp_path):
    tokenizer, directory = trained
    again = load_tokenizer(directory)
    before = again.fingerprint()
    again(CAPTIONS)
    assert before == again.fingerprint() == tokenizer.fingerprint()
    assert load_tokenizer(directory, max_length=10).fingerprint() != before
    other = train_bpe(CAPTIONS, tmp_path, vocab_size=MIN_VOCAB_SIZE + 47, max_length=16)
    assert other.fingerprint() != before


class TestMistakes:
    def test_too_small_a_vocabulary(self, tmp_path):
        with pytest.raises(UserError, match="514"):
            train_bpe(CAPTIONS, tmp_path / "new", vocab_size=100, max_length=16)
        assert not (tmp_path / "new").exists()

    def test_too_short(self, tmp_path):
        with pytest.raises(UserError, match="max_length"):
            train_bpe(CAPTIONS, tmp_path, vocab_size=600, max_length=2)

    def test_a_folder_without_tokenizer(self, tmp_path):
        with pytest.raises(UserError, match="no tokenizer"):
            load_tokenizer(tmp_path)

    def test_no_length(self, trained, tmp_path):
        _, directory = trained
        for path in directory.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        settings_path = tmp_path / "tokenizer_config.json"
        fields = json.loads(settings_path.read_text())
        del fields["model_max_length"]
        settings_path.write_text(json.dumps(fields))
        with pytest.raises(UserError, match="model_max_length"):
            load_tokenizer(tmp_path)
        assert load_tokenizer(tmp_path, max_length=9).max_length == 9


def test_importing_the_text_package_does_not_import_transformers():
    program = "import sys, difflax.text.encoders, difflax.text.joint; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)
