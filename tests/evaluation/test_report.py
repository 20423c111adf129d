"""The page is well-formed, complete in itself, and never runs or shows what a user typed as markup."""

import base64
import re
from html.parser import HTMLParser

import pytest
from difflax.evaluation.ablation.report import write_ablation
from difflax.figures import html as report
from difflax.figures.interactive import have_charts
from difflax.figures.png import read_metadata

from tests.evaluation.known_sweep import SCALES, SEEN

VOID = {"meta", "img", "br", "input", "source"}


class Checker(HTMLParser):
    """Collects tags and text, and fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    return directory, write_ablation(result, directory).read_text()


def test_the_page_needs_nothing_from_outside(written):
    page = parse(written[1])
    assert not {"link", "iframe"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "srcset", "href")]
    assert sources and all(value.startswith(("data:image/", "data:text/csv;")) for value in sources)
    # The library of the charts, and the charts, are all the scripts that there are.
    scripts = re.findall(r"<script[^>]*>", written[1])
    assert set(scripts) == {"<script>"} and len(scripts) == (3 if have_charts() else 0)
    own = re.sub(r"<script>.*?</script>", "", written[1], flags=re.DOTALL)
    assert not re.search(r"url\(|@import|\son\w+=", own)


def test_what_the_user_typed_is_text(written):
    page = parse(written[1])
    text = "".join(page.text)
    assert "--prompt='<b>'" in text and "<unseen> & new" in text
    assert "b" not in page.tags and "unseen" not in page.tags


def test_every_number_of_the_primary_metric_is_on_the_page(written, result):
    text = " ".join(parse(written[1]).text)
    for group in result.groups:
        for estimate in result.curve(group.name, "accuracy").estimates:
            assert f"{estimate.value:.2f}" in text
    assert all(prompt in text for prompt in SEEN)
    assert "144 real images" in text


def test_files_are_all_there_and_grids_know_their_origin(written, result):
    directory = written[0]
    for name in ("report.html", "results.json", "table.csv", "records.csv", "plots/overview.png"):
        assert (directory / name).stat().st_size > 0
    assert {path.stem for path in (directory / "plots").glob("*.svg")} >= set(result.by_metric(""))
    grid = read_metadata(directory / "grids" / "1_unseen_new.png")
    assert grid["guidance_scales"] == list(SCALES)
    assert grid["command"] == result.provenance.command


def test_blocks_escape_text_and_pass_markup():
    page = report.page(
        "<title>",
        "a & b",
        report.section("<h>", report.join(["x < y, ", report.tag("em", "<i>")], ""), lead="</p>"),
        report.table(["<a>", "b"], [["1 < 2", report.tag("small", "&")]], caption='"c"'),
        report.headlines([report.Headline(label="<l>", value="<v>", detail="<d>")]),
        report.definitions({"<t>": "<x>"}),
        report.details("<s>", report.code("if a < b && c:")),
        footer="<f>",
    )
    checked = parse(page)
    assert {"em", "small", "table", "dl", "details"} <= set(checked.tags)
    assert not {"i", "h", "v", "t", "x"} & set(checked.tags)
    text = "".join(checked.text)
    for typed in ("<title>", "x < y, <i>", "1 < 2", "<l>", "<v>", "<d>", "<t>", "if a < b && c:", "<f>"):
        assert typed in text


def test_attributes_cannot_be_broken_out_of():
    picture = report.Embedded(data=b"\x89PNG", kind="image/png")
    shown = report.figure(picture, 'a "quoted" <alt>', "caption")
    attributes = dict(parse(shown).attributes)
    assert attributes["alt"] == 'a "quoted" <alt>'
    assert base64.b64decode(attributes["src"].split(",")[1]) == b"\x89PNG"


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="2 cells"):
        report.table(["a", "b"], [["1"]])
