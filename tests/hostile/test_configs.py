"""Hostile values of a config, on the command line and in its file, which is code and may do anything."""

import pytest

from tests.hostile.answers import refused
from tests.runs import ROOT

SHAPES = f"--config={ROOT / 'configs' / 'shapes.py'}"
NUMBERS = ("nan", "inf", "-inf", "1e309", "x", "None", "'1'", "(1,)", "{}")
COUNTS = (*NUMBERS, "0", "-1", "1.5", "10" * 30)
EACH_LEVEL = tuple(value for value in COUNTS if value != "(1,)")  # a network of one level may have that

OVERRIDES = {
    "optimizer.learning_rate": (*NUMBERS, "0", "-1"),
    "optimizer.weight_decay": NUMBERS,
    "loss.time_sampler": ("{'name': 'logit_normal', 'mean': nan}", "'x'", "3", "[]"),
    "training.steps": COUNTS,
    "training.batch_size": COUNTS,
    "data.train": (*COUNTS, "1000000000000000"),
    "data.test": COUNTS,
    "model.layers_per_block": (*EACH_LEVEL, "10000000", "(0,)", "(2, 2)"),
    "model.block_out_channels": (*NUMBERS[:-2], "()", "(0, 16)", "(1000000000, 16)", "16", "(16, 'a')"),
    "model.attention_head_dim": (*EACH_LEVEL, "(0,)", "(2, 2)"),
    "model.norm_num_groups": COUNTS,
    "evaluation.prompts": COUNTS,
    "evaluation.seeds": COUNTS,
    "evaluation.real_images": COUNTS,
    "sampler.num_steps": (*COUNTS, "1000000000"),
    "ema.decay": (*NUMBERS, "-0.1", "1.5"),
    "ema.profiles": (*NUMBERS, "(0.3,)", "(0,)", "('a',)", "(0.05, 0.05)"),
    "ema.snapshot_every": (*COUNTS,),
    "text_encoder": ("3", "'x'"),
    "model": ("3", "'x'", "[]"),
}

CASES = [(key, value) for key, values in OVERRIDES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), CASES)
def test_a_value_that_no_run_has(key, value, tmp_path):
    line = refused("train", SHAPES, f"--workdir={tmp_path / 'run'}", f"--config.{key}={value}")
    assert key.partition(".")[2] in line, line
    assert not (tmp_path / "run").exists()


FILES = {
    "a syntax error": ("def get_config(:\n  pass", ["line 1", "SyntaxError"]),
    "an exception": ("def get_config():\n    return {}['a']", ["line 2", "KeyError"]),
    "one without a reason": ("def get_config():\n    raise ValueError", ["line 2", "ValueError"]),
    "an assertion": ("assert False", ["line 1", "AssertionError"]),
    "a long one": ("raise RuntimeError('a b\\n' * 10_000)", ["line 1", "RuntimeError", "left out"]),
    "an exit": ("import sys\nsys.exit('no')", ["line 2", "SystemExit", "no"]),
    "a recursion": ("def get_config():\n    return get_config()", ["line 2", "RecursionError"]),
    "a zero byte": ("x = '\0'", ["null bytes"]),
    "bytes": (b"\xff\xfe\x00", []),
    "no function": ("x = 1", ["get_config"]),
    "no callable": ("get_config = 3", ["TypeError"]),
    "another signature": ("def get_config(a, b): pass", ["TypeError"]),
    "nothing": ("def get_config(): pass", ["returns None"]),
    "a number": ("def get_config(): return 3", ["returns 3"]),
    "a text": ("def get_config(): return 'shapes'", ["'shapes'"]),
    "a list": ("def get_config(): return [1]", ["[1]"]),
    "an object": ("def get_config(): return object()", ["object"]),
    "no model": ("def get_config(): return {}", ["model"]),
    "a model of none": ("def get_config(): return {'model': None}", ["model"]),
    "a model that is a number": ("def get_config(): return {'model': 3}", ["model"]),
    "a model that is a text": ("def get_config(): return {'model': 'unet'}", ["model"]),
    "a name that is a list": ("def get_config(): return {'model': {'name': ['x']}}", ["model"]),
    "keys that are numbers": ("def get_config(): return {'model': {'name': 'mmdit'}, 3: 4}", ["3"]),
    "a circle": ("c = {}\nc['model'] = c\ndef get_config(): return c", ["RecursionError"]),
    "a name that is an array": (
        "import numpy\ndef get_config(): return {'model': {'name': numpy.array([1])}}",
        ["unhashable"],
    ),
    "items that fail": (
        "class C:\n    def items(self): raise KeyError('x')\ndef get_config(): return C()",
        ["line 2", "KeyError"],
    ),
    "an error without a text": (
        "class E(Exception):\n    def __str__(self): return 1 / 0\ndef get_config(): raise E",
        ["line 3", "E: "],
    ),
    "an end": ("def get_config(): raise GeneratorExit", ["line 1", "GeneratorExit"]),
    "an unknown word": (
        "from difflax.config import start\ndef get_config():\n    return start.experiment('a', 'shapes')",
        ["line 3", "'a'"],
    ),
}

SECTIONS = (
    "data",
    "loss",
    "optimizer",
    "training",
    "sampler",
    "guidance",
    "mesh",
    "schedule",
    "text_encoder",
)
VALUES = ("None", "3", "'x'", "[1]", "{'nme': 1}", "{'name': 3}", "{1: 2}", "lambda: 1")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_anything(name, tmp_path):
    text, says = FILES[name]
    path = tmp_path / "config.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused("train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert all(word in line for word in says), line


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_is_none(section, tmp_path):
    for value in VALUES:
        path = tmp_path / "config.py"
        path.write_text(
            "from difflax.config.start import experiment\n"
            "def get_config():\n"
            "    config = experiment('unet2d_condition', 'shapes').to_dict()\n"
            f"    config[{section!r}] = {value}\n"
            "    return config\n"
        )
        refused("train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_there_are_many_of_them():
    assert len(CASES) + len(FILES) + len(SECTIONS) * len(VALUES) > 200
