"""What a user typed never becomes markup of a report, and pictures are opened in named formats alone."""

import ast
import re

import numpy as np
import pytest
from difflax.evaluation.ablation.report import write_ablation
from difflax.evaluation.measurement import Instruments, PromptGroup
from difflax.figures.interactive import library

from tests.evaluation.known_sweep import provenance, sweep
from tests.evaluation.test_report import parse
from tests.runs import ROOT

SCRIPT = "<script>alert(1)</script>"


def grey(prompts, seeds, scale):
    shade = 0.2 + 0.01 * np.asarray(seeds) + 0.05 * scale
    return np.broadcast_to(np.float32(shade)[:, None, None, None], (len(prompts), 8, 8, 3)).copy()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of a sweep that is hostile wherever a user types: prompts, group, command, path, config, folder."""
    prompts = (
        f"a {SCRIPT} cat",
        "costs $5 or \\frac{$",
        '"><img src=x onerror=alert(1)>',
        "a\u202eb",
        "&lt;b&gt;",
    )
    group = PromptGroup(name=f"{SCRIPT} $x_{{", prompts=prompts)
    facts = {
        "checkpoint": f"/runs/{SCRIPT}/file.safetensors",
        "command": f"difflax ablate --prompt='{SCRIPT}'",
        "sampler": SCRIPT,
        "negative_prompt": SCRIPT,
        "judge": SCRIPT,
        "config": {SCRIPT: [SCRIPT]},
    }
    folder = tmp_path_factory.mktemp("report") / SCRIPT.replace("/", "_")
    made = sweep(
        folder, grey, groups=[group], instruments=Instruments(), scales=[0, 1], provenance=provenance(**facts)
    )
    return write_ablation(made, folder).read_text()


def test_scripts_are_text(page):
    # The library of the charts, and a call of it for each chart, whose data cannot end it.
    own, *charts = re.findall(r"<script>.*?</script>", page, re.DOTALL)
    assert own == library() and charts
    for chart in charts:
        assert re.fullmatch(r'<script>vegaEmbed\("#\w+", [^<]*</script>', chart)
    page = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    checked = parse(page)
    assert not {"script", "img src=x"} & set(checked.tags)
    assert not [name for name, _ in checked.attributes if name.startswith("on")]
    assert "".join(checked.text).count(SCRIPT) >= 6
    assert "&lt;script&gt;" in page and "<script" not in page


def opened(tree):
    """The calls of ``Image.open``."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [c for c in calls if isinstance(c.func, ast.Attribute) and ast.unparse(c.func) == "Image.open"]


def test_pictures_are_opened_in_named_formats_alone():
    found = 0
    for path in (ROOT / "difflax").rglob("*.py"):
        for call in opened(ast.parse(path.read_text())):
            found += 1
            assert "formats" in {keyword.arg for keyword in call.keywords}, path
    assert found > 1
