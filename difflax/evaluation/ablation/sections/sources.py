"""Where the numbers come from: what was asked, how it was measured, the manifest, raw data, whom to cite."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from difflax.evaluation.ablation.bibliography import bibtex, methods
from difflax.evaluation.ablation.manifests import manifest
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.values import words
from difflax.figures import html
from difflax.figures.html import Markup, tag

LARGEST_DOWNLOAD = 3_000_000
"""Bytes of a table that a page still carries."""


def asked_section(result: AblationResult) -> Markup:
    """The command and the config."""
    return html.section(
        "What was asked",
        html.code(result.provenance.command),
        html.definitions(_asked(result)),
        html.details("The whole config", html.code(_pretty(result.provenance.config))),
    )


def method_section(result: AblationResult) -> Markup:
    """The judge, the metrics and the prompts."""
    return html.section("How it was measured", *_method(result))


def manifest_section(result: AblationResult) -> Markup:
    """What another result must share to be compared with this one."""
    lead = "Results that differ in what is measured here are not drawn on one axis without a warning."
    return html.section("Manifest", html.definitions(manifest(result)), lead=lead)


def raw_section(files: Mapping[str, str]) -> Markup:
    """Tables to download from the page itself.

    Args:
        files: their text by name; those that are too large stand beside the page alone.
    """
    links = []
    for name, text in files.items():
        data = text.encode()
        size = f"{len(data):,} bytes"
        if len(data) <= LARGEST_DOWNLOAD:
            uri = f"data:text/csv;base64,{base64.b64encode(data).decode()}"
            link = tag("a", name, href=uri, download=name)
            links.append(tag("li", link, f" ({size}, inside this page)"))
        else:
            links.append(tag("li", f"{name} ({size}, beside this page)"))
    return html.section("Raw data", tag("ul", *links))


def cite_section(result: AblationResult) -> list[Markup]:
    """BibTeX of the methods that the report shows."""
    names = methods(result)
    lead = f"The papers behind what is shown here: {', '.join(names)}."
    return [html.section("Whom to cite", html.code(bibtex(names)), lead=lead)] if names else []


def _asked(result: AblationResult) -> dict[str, str]:
    source = result.provenance
    negative = repr(source.negative_prompt) if source.negative_prompt else "none (the null condition)"
    return {
        "Checkpoint": source.checkpoint,
        "Sampler": f"{source.sampler}, {source.num_steps} steps",
        "Negative prompt": negative,
        **{axis.title.capitalize(): ", ".join(map(words, axis.values)) for axis in result.axes},
        "Seeds": ", ".join(map(str, result.seeds)),
        "Prompt groups": "; ".join(f"{group.name} ({len(group.prompts)} prompts)" for group in result.groups),
        "Versions": ", ".join(f"{name} {version}" for name, version in source.versions.items()),
    }


def _pretty(config: Any) -> str:
    return json.dumps(dict(config), indent=2, ensure_ascii=False, sort_keys=True)


def _method(result: AblationResult) -> Sequence[Markup]:
    metrics = {
        metric.label: f"{metric.definition} {metric.note} Source: {metric.source}."
        for metric in (curves[0].metric for curves in result.by_metric().values())
    }
    words = {name[0].upper() + name[1:]: text for name, text in result.method.items()}
    judge = {"Judge": result.provenance.judge} if result.provenance.judge else {}
    prompts = [
        html.details(f"All prompts: {group.name}", html.code("\n".join(group.prompts)))
        for group in result.groups
    ]
    return [html.definitions(words | judge), html.definitions(metrics), *prompts]
