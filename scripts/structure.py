"""Counts what keeps the code easy to change, each from the code itself: a Markdown table, or JSON.

    python scripts/structure.py [--json] [--root=DIR]

``tests/test_structure.py`` holds the limits. ``--root`` is another checkout, to compare with. The import
graph comes from grimp (of import-linter, in the test extra); calls are traced in a tiny Stable Diffusion made
of the tests' fixtures; everything else is read from the syntax trees of ``difflax/``.
"""

import argparse
import ast
import collections
import dataclasses
import json
import pathlib
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
MANY_PARAMETERS = 12

KNOWLEDGE = {
    "SD3": (
        r"(?i)sd3|stable.?diffusion.?3",
        r"sd3|mmdit|stable_diffusion_3|single_file_3",
    ),
    "SDXL's sizes": (
        r"time_ids|MicroConditioning|size_and_score",
        r"models/unet|families/|conditions/size|size_conditioning|micro_conditioning",
    ),
    "an image that is edited": (
        r"edits_images|InstructPix2Pix|^'picture'$",
        r"families/|conditions/(picture|image|edit)",
    ),
}
"""What the code of a file says that knows of a thing, and the files that are about it and not counted: its
network, its family, its condition.
"""


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of ``difflax/``.

    Attributes:
        path: below the checkout.
        text: what stands in it.
        tree: its syntax tree.
    """

    path: str
    text: str
    tree: ast.Module


@dataclasses.dataclass(frozen=True)
class Count:
    """One row of the table.

    Attributes:
        name: what is counted.
        value: how much there is of it.
        where: what was counted, as far as names help to find it.
    """

    name: str
    value: float
    where: tuple[str, ...] = ()


def read_sources(root: pathlib.Path) -> list[Source]:
    """Every Python file of ``difflax/`` below a checkout."""
    files = sorted((root / "difflax").rglob("*.py"))
    texts = [(str(path.relative_to(root)), path.read_text()) for path in files]
    return [Source(path, text, ast.parse(text)) for path, text in texts]


# Imports


def listed_modules(root: pathlib.Path) -> tuple[set[str], set[str]]:
    """The modules that a contract about layers puts in their place, and the packages that it goes through."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed, containers = set(), set()
    for contract in contracts:
        if contract["type"] != "layers":
            continue
        names = {name.strip(" ()") for layer in contract["layers"] for name in re.split("[|:]", layer)}
        inside = contract.get("containers", [])
        containers |= set(inside)
        listed |= {f"{package}.{name}" for package in inside for name in names} if inside else names
    return listed, containers


def import_counts(root: pathlib.Path) -> list[Count]:
    """Modules outside the import contract, and circles among modules (strongly connected components)."""
    import grimp
    import numpy as np
    from scipy.sparse.csgraph import connected_components

    graph = grimp.build_graph("difflax", cache_dir=None)
    modules = sorted(graph.modules)
    listed, containers = listed_modules(root)

    def in_contract(module: str) -> bool:
        return module in containers | {"difflax"} or any(
            module == name or module.startswith(f"{name}.") for name in listed
        )

    number = {module: i for i, module in enumerate(modules)}
    edges = np.zeros((len(modules), len(modules)), bool)
    for module in modules:
        for imported in graph.find_modules_directly_imported_by(module):
            edges[number[module], number[imported]] = True
    _, labels = connected_components(edges, directed=True, connection="strong")
    groups = collections.defaultdict(list)
    for module, label in zip(modules, labels, strict=True):
        groups[label].append(module)
    circles = [" ↔ ".join(group) for group in groups.values() if len(group) > 1]
    outside = [module for module in modules if not in_contract(module)]
    return [
        Count("modules outside the import contract", len(outside), tuple(outside)),
        Count("circles among modules", len(circles), tuple(circles)),
    ]


# A call


def frames_to_network(root: pathlib.Path) -> list[str]:
    """The functions of difflax between ``pipeline(...)`` and the network's own call, ``file:function`` from
    the outside in, of the run's first call of the network (a sampler that calls it a second time in a step
    may do so from a function of its own). Comprehensions are no functions of their own.
    """
    import difflax
    from difflax.models.unet import UNet2DConditionModel
    from tests.fixtures import make_stable_diffusion as fixture

    package = pathlib.Path(difflax.__file__).parent
    if package != root / "difflax":
        raise SystemExit(f"difflax is imported from {package}, not from {root}")
    own_call, first = UNet2DConditionModel.__call__, []

    def recorded(self, *args, **kwargs):
        nonlocal first
        stack, frame = [], sys._getframe(1)
        while frame is not None:
            file = pathlib.Path(frame.f_code.co_filename)
            if file.is_relative_to(package) and not frame.f_code.co_name.endswith("comp>"):
                stack.append(f"{file.relative_to(root)}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        first = first or stack[::-1]
        return own_call(self, *args, **kwargs)

    with tempfile.TemporaryDirectory() as place:
        folder = fixture.build("sd15", pathlib.Path(place) / "sd15")
        pipeline = difflax.from_pretrained(str(folder), variant="fp16")
        UNet2DConditionModel.__call__ = recorded
        try:
            pipeline("a red cat", num_steps=1, height=32, width=32)
        finally:
            UNet2DConditionModel.__call__ = own_call
    return first


def call_counts(root: pathlib.Path) -> list[Count]:
    """How far it is from a call of a pipeline to its network."""
    frames = frames_to_network(root)
    files = tuple(dict.fromkeys(frame.partition(":")[0] for frame in frames))
    return [
        Count("own frames between pipeline(…) and the network", len(frames), tuple(frames)),
        Count("files of these frames", len(files), files),
    ]


# Shapes of classes and functions


def pipeline_fields(sources: Sequence[Source]) -> Count:
    """The fields of the dataclass ``Pipeline``."""
    (pipeline,) = (
        node
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef) and node.name == "Pipeline"
    )
    fields = tuple(node.target.id for node in pipeline.body if isinstance(node, ast.AnnAssign))
    return Count("fields of Pipeline", len(fields), fields)


def long_signatures(sources: Sequence[Source]) -> Count:
    """Functions of more than `MANY_PARAMETERS` parameters beside ``self``."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            given = node.args
            names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names += [a.arg for a in (given.vararg, given.kwarg) if a is not None]
            number = len([name for name in names if name not in ("self", "cls")])
            if number > MANY_PARAMETERS:
                found.append(f"{source.path}:{node.name} ({number})")
    return Count(f"functions of more than {MANY_PARAMETERS} parameters", len(found), tuple(found))


# Who knows what


def code_words(source: Source) -> Iterator[str]:
    """Names and quoted strings of a file's code; a paper named in a docstring or comment is no knowledge."""
    prose = {node.value for node in ast.walk(source.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and node not in prose:
                yield repr(node.value)
        else:
            yield from (value for _, value in ast.iter_fields(node) if isinstance(value, str))


def files_that_know(sources: Sequence[Source], name: str) -> Count:
    """The files whose code names a thing of `KNOWLEDGE`, outside of its own."""
    says, own = map(re.compile, KNOWLEDGE[name])
    files = [
        source.path
        for source in sources
        if not own.search(source.path) and any(says.search(word) for word in code_words(source))
    ]
    return Count(f"files that know {name}, beside its own", len(files), tuple(files))


# Branches


def is_text(node: ast.AST) -> bool:
    """Whether a node is a string literal, or a literal collection with one in it."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(is_text(element) for element in node.elts)
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def asks_type(node: ast.AST) -> bool:
    """``isinstance(…)`` and its form in ``match``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "isinstance"
    return isinstance(node, ast.MatchClass)


def compares_text(node: ast.AST) -> bool:
    """``a == "b"``, ``a != "b"``, ``a in ("b", …)`` and ``case "b":``."""
    if isinstance(node, ast.MatchValue):
        return is_text(node.value)
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    for operator, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True):
        equal = isinstance(operator, ast.Eq | ast.NotEq) and (is_text(left) or is_text(right))
        member = isinstance(operator, ast.In | ast.NotIn) and is_text(right)
        if equal or member:
            return True
    return False


def a_thousand_lines(sources: Sequence[Source], name: str, counts: Callable[[ast.AST], bool]) -> Count:
    """How often something stands in a thousand lines; ``where`` are the files that have most of it."""
    found = {source.path: sum(map(counts, ast.walk(source.tree))) for source in sources}
    lines = sum(len(source.text.splitlines()) for source in sources)
    most = sorted(found.items(), key=lambda item: -item[1])[:12]
    where = tuple(f"{path} ({number})" for path, number in most if number)
    return Count(f"{name} a thousand lines", round(1000 * sum(found.values()) / lines, 2), where)


# Names


def public_names(source: Source) -> Iterator[str]:
    """The public classes and constants that a file defines."""
    for node in source.tree.body:
        names = []
        if isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            flat = [leaf for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
            names = [leaf.id for leaf in flat if leaf.id.isupper()]
        yield from (name for name in names if not name.startswith("_"))


def doubled_names(sources: Sequence[Source]) -> Count:
    """Public classes and constants of one name in several files."""
    files = collections.defaultdict(set)
    for source in sources:
        for name in public_names(source):
            files[name].add(source.path)
    twice = tuple(f"{name}: {', '.join(sorted(where))}" for name, where in files.items() if len(where) > 1)
    return Count("names of classes and constants in several files", len(twice), twice)


def measure(root: pathlib.Path) -> list[Count]:
    """All counts of a checkout that is first on the import path."""
    sources = read_sources(root)
    return [
        *import_counts(root),
        *call_counts(root),
        pipeline_fields(sources),
        long_signatures(sources),
        *(files_that_know(sources, name) for name in KNOWLEDGE),
        a_thousand_lines(sources, "isinstance", asks_type),
        a_thousand_lines(sources, "string comparisons", compares_text),
        doubled_names(sources),
    ]


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON with what was counted, not a table")
    parser.add_argument(
        "--root", type=pathlib.Path, default=ROOT, help="another checkout (default: this one)"
    )
    options = parser.parse_args()
    root = options.root.resolve()
    sys.path.insert(0, str(root))
    counts = measure(root)
    if options.json:
        print(json.dumps([dataclasses.asdict(count) for count in counts], indent=2, ensure_ascii=False))
        return
    print("| counted | |\n|---|---|")
    for count in counts:
        print(f"| {count.name} | {count.value:g} |")


if __name__ == "__main__":
    main()
