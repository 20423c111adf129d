"""Everything that README.md, CONTRIBUTING.md and docs/ say is so: the real parser takes their commands, which
run in small form, their Python is executed, and what their sentences name is there.
"""

import ast
import configparser
import contextlib
import dataclasses
import importlib
import io
import json
import pathlib
import re
import runpy
import subprocess
import sys
from unittest import mock

import pytest
from difflax.cli import main
from difflax.data.sources import SOURCES as DATA_SOURCES
from difflax.diffusion.guidance import GUIDANCES
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.time_grids import TIME_GRIDS
from difflax.generation.pipeline import Pipeline
from difflax.training.tunings import TUNINGS

from tests.documented import (
    ELLIPSIS,
    PAGES,
    blocks,
    docstring_commands,
    inline_commands,
    page_commands,
    quoted,
    spans,
)
from tests.runs import ROOT, command
from tests.substitutes import SMALL_TRAIN, UNAVAILABLE, Sandbox

# On one worker, so that what the commands share is made once.
pytestmark = pytest.mark.xdist_group("documentation")

IN_BLOCKS = page_commands()
COMMANDS = IN_BLOCKS + inline_commands() + docstring_commands()
OURS = list(dict.fromkeys(c for c in COMMANDS if c.words[0] == "difflax"))
TO_RUN = [
    c
    for c in IN_BLOCKS
    if c.words[0] == "difflax" and not any(name in word for word in c.words for name in UNAVAILABLE)
]
LONG = re.compile(
    "finetun|dreambooth|textual_inversion|sd3|sdxl|sd35|sd15-inpainting|instruct|apg|--image"
    "|difflax (report|benchmark|plan|switches|explain|decisions)|ablate --pretrained|studies.py"
    "|--inception|--sweep(?!.*dry_run)|--guidance_scales=0,1,1.5|--bits_per_dimension"
    "|runs/(a|v|mesh|averages|validated|autoencoder|own) |stable_diffusion.md:10"
)
"""What takes more than some seconds, since it goes through programs of its own."""


def name_of(value):
    """A test's name."""
    return f"{value.page}:{value.line}"


def slow_if(long, value):
    return pytest.param(value, marks=pytest.mark.slow if long else (), id=name_of(value))


# Commands


def parsed(words):
    """Runs ``difflax`` but for the command's own work: flags, config file and overrides are read by the real
    parser.
    """
    words = [w for w in words if w != ELLIPSIS and not (w.startswith("--config") and w.endswith(ELLIPSIS))]
    module = importlib.import_module(f"difflax.cli.{words[0]}")
    with (
        mock.patch.object(module, "run") as ran,
        mock.patch.object(main, "set_up"),
        # The package that reads gs:// need not be here.
        mock.patch.object(main, "unreachable", return_value=""),
    ):
        status, _, errors = command(*words)
    assert status == 0, errors
    assert ran.called
    return ran.call_args


@pytest.mark.parametrize("documented", OURS, ids=name_of)
def test_the_parser_takes_every_command(documented, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *arguments = documented.words[1:]
    if name == "launch" and "--" in arguments:
        trained = arguments[arguments.index("--") + 1 :]
        parsed(["train", *trained])
        arguments = arguments[: arguments.index("--")]
    if documented.words[1:] == (name, ELLIPSIS):
        arguments = []
    parsed([name, *arguments])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    return Sandbox(tmp_path_factory.mktemp("documented"), TO_RUN)


@pytest.mark.parametrize("documented", [slow_if(LONG.search(str(c)), c) for c in TO_RUN])
def test_the_command_runs(documented, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox.folder)
    sandbox.run(documented.words)


OTHERS = list(dict.fromkeys(c for c in COMMANDS if c.words[0] in ("python", "bash")))


@pytest.mark.parametrize("documented", OTHERS, ids=name_of)
def test_scripts_are_there_and_take_their_arguments(documented, monkeypatch):
    program, script, *arguments = documented.words
    path = ROOT / script if "/" in script else (ROOT / documented.page).parent / script
    assert path.is_file()
    if program == "bash":
        subprocess.run(["bash", "-n", path], check=True)
        return
    if re.search(r"^import torch", path.read_text(), re.MULTILINE):
        pytest.importorskip("torch")
        pytest.importorskip("diffusers")
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(path), run_name="documented")  # that all its imports are there
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    flags = [word.partition("=")[0] for word in own if word.startswith("--")]
    if flags:
        said = io.StringIO()
        monkeypatch.setattr(sys, "argv", [str(path), "--help"])
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
        assert ended.value.code == 0
        assert not [flag for flag in flags if not re.search(rf"{flag}\b", said.getvalue())]


COLLECT = """
import json, sys, pytest

class Names:
    def pytest_collection_finish(self, session):
        self.found = [item.nodeid for item in session.items]

made = []
for arguments in json.load(sys.stdin):
    names = Names()
    pytest.main([*arguments, "--collect-only", "-qq", "-p", "no:cacheprovider"], plugins=[names])
    made.append(len(getattr(names, "found", ())))
print("\\n" + json.dumps(made))
"""


def test_names_of_pytests_commands_are_in_their_files():
    for documented in (c for c in COMMANDS if c.words[0] == "pytest"):
        options, paths = {}, []
        words = iter(documented.words[1:])
        for word in words:
            if word.startswith("-"):
                options[word] = next(words)
            else:
                paths.append(ROOT / word)
        assert paths and all(path.exists() for path in paths), documented
        text = "\n".join(f.read_text() for p in paths for f in (p.rglob("*.py") if p.is_dir() else [p]))
        for name in re.findall(r"\w+", options.get("-k", "")):
            assert name in ("or", "and", "not") or re.search(rf"def test_\w*{name}", text), str(documented)
        if "-m" in options:
            assert f"mark.{options['-m']}" in text, str(documented)


@pytest.mark.slow
def test_pytest_finds_what_its_commands_name():
    """Each command collects tests, its markers and names included; all in one process, where modules stay."""
    documented = [c for c in COMMANDS if c.words[0] == "pytest"]
    given = json.dumps([c.words[1:] for c in documented])
    ran = subprocess.run(
        [sys.executable, "-c", COLLECT], input=given, capture_output=True, text=True, cwd=ROOT
    )
    counts = json.loads(ran.stdout.splitlines()[-1])
    assert len(counts) == len(documented)
    nothing = [str(c) for c, count in zip(documented, counts, strict=True) if not count]
    assert not nothing, ran.stdout[-2000:]


def test_pip_knows_the_extras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for path in PAGES:
        for extra in re.findall(r"(?:\.|difflax)\[(\w+)\]'", path.read_text()):
            assert setup.has_option("options.extras_require", extra), f"{path.name}: [{extra}]"


# Python


PYTHON = [block for path in PAGES for block in blocks(path) if block.language == "python"]


def is_config(block):
    """The config that a block changes, if it does."""
    return re.match(r"# in a copy of (configs/\w+\.py)", block.text)


@pytest.mark.parametrize("block", [slow_if(LONG.search(name_of(b)) or is_config(b), b) for b in PYTHON])
def test_python_blocks_run(block, sandbox, monkeypatch):
    """A block as it stands; one that changes a copy of a config, as that copy, which is trained."""
    monkeypatch.chdir(sandbox.folder)
    if not is_config(block):
        sandbox.execute(block, [other for other in PYTHON if not is_config(other)])
        return
    base = pathlib.Path(is_config(block)[1])
    copy = pathlib.Path(f"copy_{pathlib.Path(block.page).stem}.py")
    body = "\n".join(f"    {line}" for line in block.text.splitlines())
    start = f"config = runpy.run_path({str(base)!r})['get_config']().unlock()"
    copy.write_text(f"import runpy\ndef get_config(arg=''):\n    {start}\n{body}\n    return config.lock()\n")
    for name in ("runs/clip_shapes", *quoted(block.text)):
        sandbox.provide(name)
    overrides = [one for one in SMALL_TRAIN[base.stem] if "config.data" not in one]
    # The pooled vector of the substitute is 16 wide, not 128.
    width = re.search(r'"projection_class_embeddings_input_dim": 128 \+ (\d+) \* (\d+)', block.text)
    numbers = int(width[1]) * int(width[2]) if width else 0
    status, _, errors = command(
        *("train", f"--config={copy}", f"--workdir=runs/{copy.stem}", *overrides),
        *("--config.training.steps=4", "--config.training.batch_size=2", "--config.training.sample_every=0"),
        *(
            [f"--config.model.projection_class_embeddings_input_dim={16 + numbers}"]
            if width
            else ["--config.training.log_every=1"]
        ),
    )
    assert status == 0, errors


# Sentences


SOURCES = [p for folder in ("difflax", "configs", "scripts") for p in sorted((ROOT / folder).rglob("*.py"))]
PATH = re.compile(r"(?<![\w/.\-:])((?:difflax|tests|configs|scripts|docs|\.ci)/[\w./*-]*[\w*/])")
DOTTED = re.compile(r"(?<![\w/.\-])difflax(?:\.[A-Za-z_]\w*)+")


def files_named(text):
    return [name.rstrip(".") for name in PATH.findall(text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(path):
    text = path.read_text()
    missing = [name for name in files_named(text) if not list(ROOT.glob(name))]
    known = {
        file.name
        for folder in ("difflax", "configs", "tests", "scripts")
        for file in (ROOT / folder).rglob("*.py")
    }
    bare = re.findall(r"`(\w+\.py)(?::\w+)?`", text)
    assert not missing + [name for name in bare if name not in known]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        page = path.parent / file if file else path
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, target


def resolves(name):
    """Whether a dotted name is a module, or something in one, down to fields and methods of a class."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", ()):
                return False
            found = getattr(found, part, None)
        return True
    return False


def test_modules_that_are_named_are_there():
    """On the pages, and in code and docstrings."""
    missing = {}
    for path in (*PAGES, *SOURCES):
        for name in DOTTED.findall(path.read_text()):
            if not resolves(name):
                missing.setdefault(name, str(path.relative_to(ROOT)))
    assert not missing


def test_files_that_docstrings_name_are_there():
    missing = {}
    for path in SOURCES:
        for name in files_named(path.read_text()):
            if "." in name and not list(ROOT.glob(name)):
                missing.setdefault(name, str(path.relative_to(ROOT)))
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_stands_in_a_file_stands_there(path):
    """Of "`SAMPLERS`, `GUIDANCES` in `difflax/diffusion/`", that these names are in that file or folder."""
    for names, place in re.findall(r"((?:`\w+`(?:, | and )?)+) in\s+`(difflax/[\w/.]+)`", path.read_text()):
        folder = ROOT / place
        files = folder.rglob("*.py") if folder.is_dir() else [folder]
        text = "\n".join(file.read_text() for file in files)
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^(class |def )?{name}\b", text, re.MULTILINE), f"{name} in {place}"


def all_flags():
    """The flags of all commands."""
    from absl import flags

    found = set()
    for name in main.COMMANDS:
        values = flags.FlagValues()
        importlib.import_module(f"difflax.cli.{name}").define_flags(values, [name])
        found |= set(values)
    return found


def all_fields():
    """Every name that is a field of a class or a parameter of a function in difflax, or a key of a config."""
    found = set()
    for path in (*(ROOT / "difflax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Dict) and "configs" in path.parts:
                found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return found


def test_flags_and_keys_in_sentences_exist():
    known, fields = all_flags(), all_fields()
    wrong = []
    for path in PAGES:
        for line, span in spans(path.read_text()):
            flags_named = re.findall(r"(?<![\w-])--(\w[\w.]*)", span)
            if re.match(r"(pytest|pip|python|--xla)", span):
                continue
            wrong += [
                f"{path.name}:{line} --{flag}"
                for flag in flags_named
                if flag.split(".")[0] not in known and flag.removeprefix("no") not in known
            ]
            for key in re.findall(r"config((?:\.(?!json)[a-z_]\w*)+)", span):
                wrong += [
                    f"{path.name}:{line} config{key}" for part in key[1:].split(".") if part not in fields
                ]
    assert not wrong


def test_pipelines_have_what_sentences_say_of_them():
    fields = {field.name for field in dataclasses.fields(Pipeline)}
    for path in PAGES:
        for line, span in spans(path.read_text()):
            for name in re.findall(r"\bpipeline\.(?!py\b)([a-z_]+)", span):
                assert name in fields or hasattr(Pipeline, name), f"{path.name}:{line} {span}"


def test_variables_of_the_environment_are_read():
    text = "\n".join(path.read_text() for path in SOURCES)
    for path in PAGES:
        for name in re.findall(r"\bDIFFLAX_[A-Z_]+", path.read_text()):
            assert name in text, f"{path.name}: {name}"


def test_the_glossary_is_short_and_names_each_thing_once():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Glossary")[2]
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", text, re.MULTILINE)[1:]
    words = [word for word, _ in rows]
    assert len(words) > 30 and len(set(words)) == len(words)
    assert not [word for word, meaning in rows if len(meaning.split()) > 25]


@pytest.mark.parametrize(
    ("page", "header", "registry"),
    [
        ("samplers", "| name | step |", SAMPLERS),
        ("samplers", "| name | what |", TIME_GRIDS),
        ("guidance", "| name | formula |", GUIDANCES),
        ("finetuning", "| `config.tune.name` |", TUNINGS),
        ("data", "| `config.data.name` |", set(DATA_SOURCES) - {"folder", "first_shapes"}),
    ],
)
def test_a_table_has_all_that_can_be_named(page, header, registry):
    table = (ROOT / "docs" / f"{page}.md").read_text().partition(header)[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(registry)
