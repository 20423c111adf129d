"""Bytes to text: what editors of all kinds write."""

import os

import pytest
from difflax.core.types import UserError
from difflax.data.texts import argument_text, decode_text, lines_of, read_lines, read_text, whole_text

TEXT = "a café, “naïve”\u2028 – 你好 😀"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_of_unicode(encoding):
    assert decode_text(TEXT.encode(encoding), "x") == TEXT


@pytest.mark.parametrize("end", ["le", "be"])
@pytest.mark.parametrize("width", [16, 32])
def test_either_order_of_bytes(end, width):
    assert decode_text(("\ufeff" + TEXT).encode(f"utf-{width}-{end}"), "x") == TEXT


def test_windows_1252():
    text = "café au lait – “l’œuvre” à 5 €"
    assert decode_text(text.encode("cp1252"), "x") == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("красный круг", "cp1251"),
        ("ein Kreis, κύκλος κόκκινος", "iso8859-7"),
        ("赤い丸が左上にある", "shift_jis"),
        ("左上角的红色圆圈", "gbk"),
        ("a red circle", "utf-16-le"),
    ],
)
def test_what_cannot_be_told_is_refused_and_not_guessed(text, encoding):
    with pytest.raises(UserError, match="save it as UTF-8"):
        decode_text(text.encode(encoding), "a.txt")


def test_halves_of_surrogates():
    assert whole_text("a \ud83d b") == "a \ufffd b"
    assert whole_text("a \ud83d\ude00 b") == "a 😀 b"
    assert whole_text(TEXT) == TEXT
    assert decode_text(b"a \xed\xa0\xbd b", "x") == "a \ufffd b"
    assert decode_text(b"a \xed\xa0\xbd\xed\xb8\x80 b", "x") == "a 😀 b"
    assert decode_text("\ufeffa".encode("utf-16-le") + b"\x3d\xd8", "x") == "a\ufffd"


def test_lines_end_at_line_feeds_alone():
    assert list(lines_of("a\u2028b\x85c\x0bd\r\ne\rf\n\ng\n")) == ["a\u2028b\x85c\x0bd", "e", "f", "", "g"]


def test_arguments_of_the_command_line():
    latin = os.fsdecode("café".encode("cp1252"))
    assert "\udce9" in latin
    assert argument_text(latin) == "café"
    assert argument_text(TEXT) == TEXT


def test_a_file_of_prompts(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("a café\u2028 at night\r\n\r\n  two\r\n".encode("utf-8-sig"))
    assert read_lines(tmp_path / "prompts.txt") == ["a café\u2028 at night", "two"]


def test_what_is_no_text(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * 101)
    for name, says in (
        ("folder", "folder"),
        ("pipe", "no such"),
        ("none", "no such"),
        ("long", "more than 100"),
    ):
        with pytest.raises(UserError, match=says) as raised:
            read_text(tmp_path / name, f"--prompts_file={name}", limit=100)
        assert str(raised.value).startswith(f"--prompts_file={name}")
