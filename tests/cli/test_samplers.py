"""The command that measures orders of convergence."""

from difflax.cli.samplers import AFTER, BEFORE

from tests.runs import command


def test_the_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEFORE}\nold\n{AFTER}\nafter\n")
    assert command("samplers", "--names=ddim", f"--output={page}")[0] == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    row = next(line for line in text.splitlines() if line.startswith("| ddim |"))
    assert abs(float(row.split("|")[4]) - 1) < 0.15


def test_bad_input(tmp_path):
    status, _, errors = command("samplers", "--names=heunn")
    assert status == 2 and "did you mean 'heun'" in errors and errors.count("\n") == 1
    status, _, errors = command("samplers", f"--output={tmp_path / 'none.md'}")
    assert status == 2 and errors.count("\n") == 1
