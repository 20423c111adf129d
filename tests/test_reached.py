"""Every public function, class and method is reached by something else than tests."""

import ast
import collections

import pytest

from tests.runs import ROOT

FILES = [
    path for folder in ("difflax", "scripts", "configs") for path in sorted((ROOT / folder).rglob("*.py"))
]
TREES = {path: ast.parse(path.read_text()) for path in FILES}
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
AHEAD = {"difflax/diffusion/inversion.py: invert"}
"""What waits for its door: DDIM inversion of an image that is edited, on the command line of `sample`."""


def words(tree):
    """What a piece of code names: read variables, attributes, imports, and strings (``method="encode"``)."""
    found = collections.Counter()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
                found[name] += 1
            case ast.ImportFrom(names=names):
                found.update(alias.name for alias in names)
            case ast.Constant(value=str(name)) if name.isidentifier():
                found[name] += 1
    return found


def public(node):
    """The public definitions directly in a module or class, with those inside of its public classes."""
    for inner in node.body:
        if isinstance(inner, DEFINITIONS) and not inner.name.startswith("_"):
            yield inner
            if isinstance(inner, ast.ClassDef):
                yield from public(inner)


def unreached():
    """``file: name`` of what no line names beside its own."""
    named = sum((words(tree) for tree in TREES.values()), collections.Counter())
    for path, tree in TREES.items():
        for definition in public(tree) if path.is_relative_to(ROOT / "difflax") else ():
            own = words(definition)[definition.name] if isinstance(definition, ast.FunctionDef) else 0
            if named[definition.name] - own <= 0:
                yield f"{path.relative_to(ROOT)}: {definition.name}"


def test_nothing_is_reached_by_tests_alone():
    found = sorted(set(unreached()) - AHEAD)
    assert not found, f"{len(found)} are reached by nobody: give them a door or delete them:\n" + "\n".join(
        found
    )


@pytest.mark.parametrize(("code", "count"), [("def f(): f()", 1), ("f = 1", 0), ("a.f(); g(x='f')", 2)])
def test_words(code, count):
    assert words(ast.parse(code))["f"] == count
