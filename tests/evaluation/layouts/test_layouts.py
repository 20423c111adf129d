"""Benchmarks' folders are what their scripts read, and their scores come back as their own summaries say.

The readers here do what the scripts do: GenEval's ``evaluate_images.py`` and ``summary_scores.py``,
T2I-CompBench's ``BLIP_vqa.py``.
"""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import arms_of_scales
from difflax.evaluation.ablation.benchmarks import with_scores
from difflax.evaluation.ablation.findings import findings
from difflax.evaluation.ablation.pictures import Album, read_pictures
from difflax.evaluation.ablation.stored import read_result
from difflax.evaluation.ablation.sweep import by_scale, run_sweep
from difflax.evaluation.ablation.tables import results_json, write_tables
from difflax.evaluation.layouts import LAYOUTS
from difflax.evaluation.measurement import Instruments, PromptGroup

from tests.evaluation.known_sweep import draw, provenance

SCALES, SEEDS = (1.0, 2.0, 4.0), (0, 1, 2)
GENEVAL = [
    {"tag": "single_object", "include": [{"class": "ball", "count": 1}], "prompt": "a photo of a red ball"},
    {"tag": "colors", "include": [{"class": "box", "count": 1}], "prompt": "a photo of a green box"},
    {"tag": "colors", "include": [{"class": "tree", "count": 1}], "prompt": "a photo of a blue tree"},
    {"tag": "colors", "include": [{"class": "cup", "count": 1}], "prompt": "a photo of a red cup"},
    {"tag": "counting", "include": [{"class": "ball", "count": 2}], "prompt": "a photo of two green balls"},
    {"tag": "counting", "include": [{"class": "box", "count": 3}], "prompt": "a photo of three red boxes"},
    {"tag": "counting", "include": [{"class": "cup", "count": 3}], "prompt": "a photo of three blue cups"},
]
T2I = 'a green bench and a blue bowl\na red "book", it\'s here\ta note of the file\nThe blue sky.\n'


def prompts_file(folder, name):
    path = folder / name
    text = T2I if name == "t2i_compbench" else "\n".join(map(json.dumps, GENEVAL)) + "\n"
    path.write_text(text)
    return path


def drawn(folder, name):
    """A small sweep whose images are kept in the layout."""
    asked = LAYOUTS[name].read_prompts(prompts_file(folder, name), "the file")
    prompts = tuple(each.prompt for each in asked)
    groups = [("prompts", prompts)]
    result = run_sweep(
        by_scale(draw),
        [PromptGroup(name="prompts", prompts=prompts)],
        arms=arms_of_scales(SCALES),
        seeds=SEEDS,
        provenance=provenance(),
        directory=folder,
        instruments=Instruments(),
        batch_size=8,
        album=Album(folder, groups, SEEDS, name, [each.facts for each in asked]),
        show_progress=False,
    )
    write_tables(result, folder)
    return result


@pytest.fixture(scope="module")
def geneval(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geneval")
    return folder, drawn(folder, "geneval")


@pytest.fixture(scope="module")
def t2i(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t2i")
    return folder, drawn(folder, "t2i_compbench")


def evaluated(folder, right):
    """The lines of GenEval's evaluate_images.py for a folder of images, in the order of its listing."""
    lines = []
    for subfolder in os.listdir(folder):
        path = folder / subfolder
        if not path.is_dir() or not subfolder.isdigit():
            continue
        metadata = json.loads((path / "metadata.jsonl").read_text())
        for name in os.listdir(path / "samples"):
            assert re.match(r"\d+\.png", name)
            lines.append(
                {
                    "filename": str(path / "samples" / name),
                    "tag": metadata["tag"],
                    "prompt": metadata["prompt"],
                    "correct": bool(right[int(subfolder), int(name[:-4])]),
                    "reason": "",
                    "metadata": json.dumps(metadata),
                    "details": "{}",
                }
            )
    return lines


def summarized(lines):
    """The task scores and the number of GenEval's summary_scores.py."""
    tasks = {}
    for line in lines:
        tasks.setdefault(line["tag"], []).append(line["correct"])
    means = {tag: np.mean(values) for tag, values in tasks.items()}
    return means, np.mean(list(means.values()))


def written(lines):
    # As pandas does, whose JSON has slashes with a backslash in front.
    return "".join(json.dumps(line).replace("/", "\\/") + "\n" for line in lines)


def test_geneval_finds_its_prompts_and_images(geneval):
    folder, result = geneval
    for arm in result.arms:
        lines = evaluated(folder / "images" / arm.key, np.zeros((7, 3)))
        assert len(lines) == 7 * 3
        asked = [json.loads(line["metadata"]) for line in lines]
        assert all(facts in GENEVAL for facts in asked)
        numbers = {int(line["filename"].split(os.sep)[-3]): line["prompt"] for line in lines}
        assert numbers == {n: facts["prompt"] for n, facts in enumerate(GENEVAL)}


def test_genevals_scores_come_back_as_its_own_summary(geneval):
    folder, result = geneval
    rng, expected, verdicts = np.random.default_rng(0), [], []
    for place, arm in enumerate(result.arms):
        right = rng.random((7, 3)) < (0.3, 0.6, 0.9)[place]
        lines = evaluated(folder / "images" / arm.key, right)
        (folder / "images" / arm.key / "results.jsonl").write_text(written(lines))
        expected.append(summarized(lines))
        verdicts.append(right)
    scored = with_scores(read_result(folder), folder)
    for place, (tasks, overall) in enumerate(expected):
        assert scored.of("prompts", "geneval").estimates[place].value == pytest.approx(overall)
        for tag, share in tasks.items():
            estimate = scored.of("prompts", f"geneval_{tag}").estimates[place]
            assert estimate.value == pytest.approx(share)
            assert estimate.low <= share <= estimate.high
    by_image = np.stack([scored.records[f"geneval_{tag}"].reshape(3, -1) for tag in tasks])
    np.testing.assert_array_equal(np.nansum(by_image, axis=0), np.reshape(verdicts, (3, -1)))
    assert scored.primary == "geneval" and scored.triangle == ["geneval", "pixel_diversity"]
    found = next(each for each in findings(scored) if each.scores.metric.name == "geneval")
    for pair in found.pairs:
        gap = expected[pair.second][1] - expected[pair.first][1]
        assert pair.estimate.value == pytest.approx(gap)
        assert pair.estimate.low <= gap <= pair.estimate.high
    write_tables(scored, folder)
    with (folder / "records.csv").open() as file:
        assert "geneval_counting" in next(csv.reader(file))
    assert results_json(with_scores(read_result(folder), folder)) == results_json(scored)


def test_an_arm_that_is_not_scored_has_no_number(geneval, tmp_path):
    folder, result = geneval
    folder = shutil.copytree(folder, tmp_path / "copy")
    first, *others = (folder / "images" / arm.key / "results.jsonl" for arm in result.arms)
    first.unlink(missing_ok=True)
    for path in others:
        path.write_text(written(evaluated(path.parent, np.ones((7, 3)))))
    scored = with_scores(result, folder)
    assert np.isnan(scored.of("prompts", "geneval").estimates[0].value)
    assert np.isfinite(scored.of("prompts", "geneval").estimates[1].value)
    assert "2 of 3 arms" in scored.method["GenEval"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "1 of 21 images have no score"),
        (lambda lines: [{**lines[0], "prompt": "another"}, *lines[1:]], "is no image of this sweep"),
        (lambda lines: [{**lines[0], "filename": "x/00099/samples/00000.png"}], "is no image of this sweep"),
        (lambda lines: [{**lines[0], "filename": "picture.png"}], "line 1: no line"),
        (lambda lines: [{**lines[0], "correct": "yes"}], "line 1: no line"),
        (lambda lines: [{"tag": "colors"}], "line 1: no line"),
    ],
)
def test_scores_of_other_images_are_refused(geneval, change, message):
    folder, result = geneval
    path = folder / "images" / result.arms[2].key / "results.jsonl"
    kept = path.read_text() if path.exists() else None
    lines = change(evaluated(path.parent, np.ones((7, 3))))
    path.write_text(written(lines))
    with pytest.raises(UserError, match=message):
        with_scores(result, folder)
    path.unlink() if kept is None else path.write_text(kept)


def names_of_t2i(folder):
    """As BLIP_vqa.py has them: by the number at the end, the prompt up to the first underscore."""
    names = sorted(os.listdir(folder / "samples"), key=lambda name: int(name.split("_")[-1].split(".")[0]))
    return [(name.split("_")[0], int(name.split("_")[-1].split(".")[0])) for name in names]


def test_t2i_compbench_finds_its_prompts_in_the_names(t2i):
    folder, result = t2i
    prompts = ["a green bench and a blue bowl", 'a red "book", it\'s here', "The blue sky."]
    for arm in result.arms:
        expected = [(prompt, 3 * n + place) for n, prompt in enumerate(prompts) for place in range(3)]
        assert names_of_t2i(folder / "images" / arm.key) == expected
    images = [p for p in (folder / "images" / result.arms[0].key).rglob("*") if p.is_file()]
    assert len(images) == 9


def test_t2i_compbenchs_scores_come_back(t2i):
    folder, result = t2i
    rng = np.random.default_rng(1)
    answers = rng.random((3, 9))
    for arm, values in zip(result.arms, answers, strict=True):
        where = folder / "images" / arm.key
        order = rng.permutation(9)  # UniDet's come in batches, BLIP's are texts
        detected = [{"question_id": int(n), "answer": values[n] / 2} for n in order]
        for place, said in {
            "annotation_blip": [{"question_id": n, "answer": f"{values[n]:.4f}"} for n in range(9)],
            "labels/annotation_obj_detection_2d": detected,
        }.items():
            (where / place).mkdir(parents=True)
            (where / place / "vqa_result.json").write_text(json.dumps(said))
    scored = with_scores(result, folder)
    for name, expected in (("t2i_blip_vqa", answers), ("t2i_unidet_2d", answers / 2)):
        np.testing.assert_allclose(scored.records[name].reshape(3, 9), expected, atol=1e-4)
        means = [estimate.value for estimate in scored.of("prompts", name).estimates]
        np.testing.assert_allclose(means, expected.mean(1), atol=1e-4)
    assert scored.aspects["alignment"] == "t2i_blip_vqa"
    path = folder / "images" / result.arms[0].key / "annotation_blip" / "vqa_result.json"
    for text, message in (
        ("[]", "9 of 9 images have no score"),
        ("{", "no scores of 9 images"),
        ('[{"question_id": 9, "answer": "0.5"}]', "question 9"),
        ('[{"question_id": 0, "answer": "NaN"}]', "question 0"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            with_scores(result, folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("geneval", "a plain prompt\n", "line 1: no prompt of GenEval"),
        ("geneval", '{"prompt": "a cat"}\n', "line 1: no prompt of GenEval"),
        ("geneval", '\n{"prompt": "", "tag": "colors"}\n', "line 2: no prompt of GenEval"),
        ("geneval", '{"prompt": "a", "tag": "x"}\n{"prompt": "a", "tag": "y"}\n', "there twice"),
        ("geneval", "\n", "no prompt"),
        ("t2i_compbench", "a_b\n", "'_' in it"),
        ("t2i_compbench", "a/b\n", "'/' in it"),
        ("t2i_compbench", "..\n", "dot in front"),
        ("t2i_compbench", f"{'long ' * 60}\n", "too long"),
    ],
)
def test_prompts_that_the_benchmark_would_not_find_are_refused(tmp_path, name, text, message):
    path = tmp_path / "prompts"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        LAYOUTS[name].read_prompts(path, "--prompts_file=prompts")


def test_a_prompt_that_is_there_twice_is_drawn_once(tmp_path):
    path = tmp_path / "prompts"
    path.write_text("a red ball\na blue ball\na red ball\n")
    found = LAYOUTS["t2i_compbench"].read_prompts(path, "the file")
    assert [each.prompt for each in found] == ["a red ball", "a blue ball"]


def test_the_manifest_keeps_what_the_benchmark_knows(geneval):
    folder, _ = geneval
    pictures = read_pictures(folder)
    assert [dict(facts) for facts in pictures.facts] == GENEVAL
    assert pictures.path(next(iter(pictures.arms)), 3, 2).exists()
    manifest = folder / "images" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"layout": "geneval"', '"layout": "gen"'))
    with pytest.raises(UserError, match="layout 'gen'"):
        read_pictures(folder)
    manifest.write_text(text)
