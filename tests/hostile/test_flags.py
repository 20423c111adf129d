"""Hostile values of flags, over all commands: refused before anything is loaded, as the model is nowhere."""

import os

import pytest

from tests.hostile.answers import refused
from tests.runs import ROOT

SAMPLE = ("sample", "--pretrained=nowhere", "--prompt=a cat", "--output={out}")
ABLATE = ("ablate", "--pretrained=nowhere", "--prompt=a cat", "--output={out}")
EVALUATE = ("evaluate", "--workdir=nowhere", "--output={out}")
CONVERT = ("convert", "--pretrained=nowhere", "--output={out}")
PLAN = ("plan", f"--config={ROOT / 'configs' / 'shapes.py'}", "--config.text_encoder.path=nowhere")
LAUNCH = ("launch", "slurm", "--config=a", "--workdir=b")

WHOLE = ("", "x", "1.5", "nan", "inf", "1e309", "0x", "1,2", "None", "-1", "10" * 40)
REAL = ("", "x", "nan", "inf", "-inf", "1e309", "1,2", "None", "1+1j")
TEXTS_AS_PATHS = ("{file}", "{file}/below", "{loop}/x", "a\0b", "n" * 300, "gs://bucket/x", "http://x/y")
TEXTS_AS_PATHS += ("s3://bucket/x", "file:///x", "hdfs://x", "/".join(["n" * 200] * 22), "/".join("n" * 3000))

TABLE = {
    SAMPLE: {
        "height": (*WHOLE, "0", "-8", "1000000000"),
        "width": (*WHOLE, "0", "-8", "1000000000"),
        "num_steps": (*WHOLE, "0", "1000000000"),
        "num_images": (*WHOLE, "0", "1000000000", "4294967296"),
        "seed": (*WHOLE, "4294967296", "9223372036854775808"),
        "guidance_scale": REAL,
        "sampler": ("", "ddmi", "None", "DDIM " * 100),
        "guidance": (
            "",
            "cgf",
            "{",
            "[" * 500,
            "{{}:1}",
            "{'name': 'cfg', 'scale': 'x'}",
            "{'scale': 1e999}",
            "7",
        ),
        "lora": ("", "nowhere", "nowhere:x", "nowhere:nan", "{file}:inf", "a\0b"),
        "textual_inversion": ("nowhere", "a\0b"),
        "dtype": ("", "float", "int8", "float32x"),
        "mesh": ("", "data", "data=x", "data=0", "date=1", "data=1.5", "data=-5"),
        "image": ("nowhere.png", "{file}", "{folder}", "a\0b", "n" * 300, "{loop}"),
        "strength": (*REAL, "0", "-1", "1.5", "0.5"),
        "prompts_file": ("nowhere.txt", "{folder}", "{loop}", "a\0b", "n" * 300, "gs://bucket/x"),
        "output": TEXTS_AS_PATHS,
        "processes": (*WHOLE, "0"),
        "clip_skip": (*WHOLE, "1000000000"),
        "image_guidance_scale": REAL,
        "original_size": ("", "x", "1", "1,2,3", "0,0", "-1,5", "1.5,2"),
        "aesthetic_score": REAL,
        "no_such_flag": ("1",),
    },
    ABLATE: {
        "seeds": (*WHOLE, "0", "1000000000"),
        "guidance_scales": ("x", "nan", "1,inf", "1,1", "1,,2", "1e309"),
        "sweep": ("nowhere.json", "{file}", "{folder}", "{loop}", "a\0b", "n" * 300),
        "sweep.guidance.scale": ("", "x", ";", "1:2:0", "0:1e99999999999", "(", "1;1", "1e309", "None;{{"),
        "sweep.guidance.interval": ("1", "(1,)", "(1,2,3)", "(nan,1)", "{{'low': 1}}", "[[1,2]]", "(2,1)"),
        "sweep.guidance.schedule": (
            "1",
            "linaer",
            "(1,2)",
            "{{'name': 'bands', 'edges': (0,), 'scales': (1,)}}",
        ),
        "sweep.num_steps": (*WHOLE, "0", "1000000000", "[3]"),
        "sweep.sampler": ("ddmi", "{{}}", "{{'name': 'ddim', 'eat': 1}}", "[[['ddim']]]", "none"),
        "sweep.no_such_axis": ("1",),
        "design": ("gird", ""),
        "layout": ("geneva", "geneval", ""),
        "trajectories": (*WHOLE, "-1"),
        "arms": (*WHOLE, "0", "1000000000"),
        "design_seed": (*WHOLE, "-1"),
        "num_steps": (*WHOLE, "0", "1000000000"),
        "sampler": ("ddmi",),
        "clip": ("nowhere", "{file}", "a\0b", "n" * 300),
        "output": TEXTS_AS_PATHS,
    },
    EVALUATE: {
        "seeds": (*WHOLE, "0", "1000000000"),
        "bits_per_dimension": WHOLE,
        "workdir": ("", "{file}", "{folder}", "{loop}", "a\0b", "n" * 300, "gs://bucket/x"),
        "output": TEXTS_AS_PATHS,
    },
    CONVERT: {
        "output": TEXTS_AS_PATHS,
        "pretrained": ("", "{file}", "{folder}", "{loop}", "a\0b", "n" * 300, "gs://bucket/x"),
        "t5_length": WHOLE,
    },
    PLAN: {
        "output": TEXTS_AS_PATHS[1:],
        "tokens": (*WHOLE, "0"),
        "topology": ("", "x" * 9, "cpu:20000", "cpu:0"),
        "config.training.steps": ("{{}:1}", "1.5", "nan"),
        "config": ("{file}",),
    },
    LAUNCH: {"nodes": (*WHOLE, "0"), "hours": (*WHOLE, "0"), "name": ("A b", "$(x)", "ä ö")},
}

CASES = [
    (command, flag, value)
    for command, flags in TABLE.items()
    for flag, values in flags.items()
    for value in values
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A file, an empty folder, a circle of links, and where results would go."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "file").write_bytes(b"\x00\xff not what you think")
    (root / "folder").mkdir()
    os.symlink(root / "loop", root / "loop")
    return {"file": root / "file", "folder": root / "folder", "loop": root / "loop", "out": root / "out"}


@pytest.mark.parametrize(("command", "flag", "value"), CASES)
def test_is_answered_in_one_line(command, flag, value, places, monkeypatch):
    monkeypatch.chdir(places["folder"])
    for name, place in places.items():
        value = value.replace(f"{{{name}}}", str(place))
    before = sorted(places["folder"].parent.rglob("*"))
    split = [argument.format(**places) for argument in command]
    rest = ["--", *split[2:]] if split[0] == "launch" else []
    kept = split[:2] if rest else split
    line = refused(*kept, f"--{flag}={value}", *rest)
    # Of what is opened the path is named.
    assert flag in line or flag == "pretrained", line
    assert sorted(places["folder"].parent.rglob("*")) == before


def test_a_prompt_is_no_path(places):
    for text in ("http://x", "gs://a cat"):
        line = refused("sample", "--pretrained=nowhere", f"--prompt={text}", "--output=out", "--num_steps=0")
        assert "num_steps" in line


@pytest.mark.parametrize("address", ["x", "x:", ":80", "x:0", "x:99999999", "x:y", "x:-1", "x:" + "9" * 9999])
def test_an_address_that_is_none_is_not_waited_for(address):
    line = refused(*SAMPLE[:3], "--output=out", f"--coordinator={address}", "--processes=2", "--process=0")
    assert "--coordinator=" in line


def test_a_flag_of_ten_thousand_characters():
    assert "no flag" in refused("sample", "--" + "x" * 10_000 + "=1")


def test_there_are_many_of_them():
    assert len(CASES) > 300
