"""`retinal_tl evaluate`: what a model has seen judges it never, a kill costs a photograph, and memory stays."""

import csv
import html
import json
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import builtin_signatures
from toy_data import SHARED, needs_idrid

from browser import CHROMIUM, Browser
from retinal_tl import counts, verdict_page
from retinal_tl.cards import SplitNames, read_card
from retinal_tl.command import main
from retinal_tl.core import RetinalError
from retinal_tl.counts import PhotoCounts, counts_key
from retinal_tl.datasets import Example, read_folder
from retinal_tl.evaluate import evaluate_run
from retinal_tl.images import read_photo, write_png
from retinal_tl.inference import load_run
from retinal_tl.leakage import find_same_eyes, hold_signatures, open_signatures, read_signatures, write_signatures
from retinal_tl.lesions import LesionScores
from retinal_tl.metrics import BINS, PixelHistogram
from retinal_tl.seen import find_seen, what_was_learned
from retinal_tl.signatures import SAME_EYE, same_eye_score, signature
from retinal_tl.spots import Reading
from retinal_tl.synthetic import phantom
from retinal_tl.verdict import pool_lesion
from toy_runs import change_card, toy_card, write_toy_run

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = REPOSITORY / "retinal_tl" / "weights"


def silent(line: str) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Six phantoms with masks of two lesions, and their signatures."""
    folder = tmp_path_factory.mktemp("data") / "own"
    for i, seed in enumerate((2, 3, 5, 7, 8, 9)):
        eye = phantom(seed, 320, ("exudates", "hemorrhages"))
        write_png(folder / "images" / f"{i}.png", eye.photo)
        for lesion, mask in eye.masks.items():
            write_png(folder / "masks" / lesion / f"{i}.png", mask.astype(np.uint8) * 255)
    examples = read_folder(folder).examples
    return folder, examples, read_signatures({one.name: one.photo for one in examples})[0]


@pytest.fixture
def data(own, tmp_path):
    """A copy of them that may be spoilt."""
    return Path(shutil.copytree(own[0], tmp_path / "own"))


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Neither curves nor the measuring of photographs, which take most of the time and have tests of their own."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(counts, "photo_warnings", lambda photo, field: [])
        monkeypatch.setattr(verdict_page, "draw_curves", lambda kind, figures: [])


def toy(place, own, learned=(), chosen=(), name="toy", **changes):
    """A run that has learned from some of the photographs and was chosen by others, by number, under other names."""
    folder = write_toy_run(place / name, **dict(lesions=("exudates",), threshold=0.4, name=name) | changes)
    every = own[2].read(range(len(own[2])))
    for file, numbers in (("signatures.npz", learned), ("validation_signatures.npz", chosen)):
        write_signatures(folder / file, hold_signatures([f"clinic:{i}" for i in numbers], every[list(numbers)]))
    return folder


def evaluate(model, data, output, **options):
    return evaluate_run(model, "folder", data, output, report=silent, **dict(drawings=20, pictures=1) | options)


def names(sentences):
    return [sentence.split(" shows ")[0] for sentence in sentences]


def test_what_taught_or_chose_a_model_does_not_judge_it(own, tmp_path):
    found = evaluate(toy(tmp_path, own, [0], [3]), own[0], tmp_path / "out")
    assert names(found.metrics["left_out"]["seen"]) == [own[1][0].name, own[1][3].name]
    assert "has learned from" in found.metrics["left_out"]["seen"][0]
    assert "chose the thresholds of toy" in found.metrics["left_out"]["seen"][1]
    assert found.metrics["data"]["judged"] == found.metrics["figures"]["exudates"]["images"] == 4
    rows = list(csv.DictReader((found.folder / "photographs.csv").read_text().splitlines()))
    assert sum("same eye" in row["problem"] for row in rows) == 2 and sum(bool(row["aupr"]) for row in rows) == 4
    page = (found.folder / "report.html").read_text()
    assert "clinic:3" in page and "flatter" not in page and not found.metrics["warnings"]


def test_an_eye_that_either_model_has_seen_judges_neither(own, tmp_path):
    first, second = toy(tmp_path, own, [0]), toy(tmp_path, own, [1], [2], "other", threshold=0.9)
    found = evaluate(first, own[0], tmp_path / "out", compare=second)
    assert names(found.metrics["left_out"]["seen"]) == [one.name for one in own[1][:3]]
    alone = evaluate(second, own[0], tmp_path / "alone")  # with the first photograph, which it does not know
    assert (found.metrics["data"]["judged"], alone.metrics["data"]["judged"]) == (3, 4)
    test = found.metrics["comparison"]["exudates"]
    assert test["aupr"]["difference"] == 0 and test["aupr"]["p"] == 1 and test["dice"]["units"] == 3
    assert test["dice"]["first"] == pytest.approx(found.metrics["figures"]["exudates"]["dice"])
    with pytest.raises(RetinalError, match="compare models of one lesion"):
        red = toy(tmp_path, own, name="red", lesions=("hemorrhages",))
        evaluate(first, own[0], tmp_path / "out", compare=red)


def test_leaks_are_kept_only_with_a_warning(own, tmp_path):
    model = toy(tmp_path, own, range(6))
    with pytest.raises(RetinalError, match="Of 6 photographs 6 show eyes .*--allow-leaks"):
        evaluate(model, own[0], tmp_path / "out")
    found = evaluate(model, own[0], tmp_path / "out", allow_leaks=True)
    assert found.metrics["data"]["judged"] == 6 == len(found.metrics["leaks_kept"]) and found.metrics["leaks_allowed"]
    assert "flatter" in found.metrics["warnings"][0]
    assert html.escape(found.metrics["warnings"][0]) in (found.folder / "report.html").read_text()


def test_without_signatures_names_are_compared_and_that_is_said(own, tmp_path):
    bare = write_toy_run(tmp_path / "bare", split=SplitNames((own[1][0].name,), (own[1][1].name,)), name="bare")
    found = evaluate(bare, own[0], tmp_path / "out")
    assert found.metrics["data"]["judged"] == 4 and "has the name of" in found.metrics["left_out"]["seen"][0]
    assert len(found.metrics["warnings"]) == 2 and "renamed" in found.metrics["warnings"][0]
    assert "renamed" in (found.folder / "report.html").read_text()


def test_other_photographs_of_a_known_patient_are_left_out_too(own, tmp_path):
    known = what_was_learned(load_run(toy(tmp_path, own, [2])))
    patient = [replace(one, eye="patient") for one in own[1][1:4]]
    assert set(find_seen([*patient, own[1][5]], own[2], known)) == {one.name for one in patient}


def test_the_threshold_is_that_of_the_card(own, tmp_path):
    model = toy(tmp_path, own)
    before = evaluate(model, own[0], tmp_path / "out").metrics["figures"]["exudates"]
    change_card(model, thresholds={"exudates": 0.93})
    after = evaluate(model, own[0], tmp_path / "out").metrics["figures"]["exudates"]
    assert (before["threshold"], after["threshold"]) == (0.4, 0.93)
    assert before["dice"] != after["dice"] and before["aupr"] == after["aupr"]
    assert before["best_possible"] == after["best_possible"] and before["best_possible"]["dice"] >= before["dice"]


def test_only_what_was_annotated_counts(own, data, tmp_path):
    shutil.rmtree(data / "masks" / "hemorrhages")
    model = toy(tmp_path, own, lesions=("exudates", "hemorrhages"))
    found = evaluate(model, data, tmp_path / "out")
    assert set(found.metrics["figures"]) == {"exudates"}
    assert any("hemorrhages: 6 photographs" in one for one in found.metrics["left_out"]["not_annotated"])
    shutil.rmtree(data / "masks" / "exudates")
    with pytest.raises(RetinalError, match="no photograph is annotated for exudates, hemorrhages"):
        evaluate(model, data, tmp_path / "out")


def test_what_fails_is_listed_and_the_others_go_on(own, data, tmp_path, capsys):
    toy(tmp_path, own)
    examples = read_folder(data).examples
    examples[1].photo.write_bytes(b"")
    examples[2].masks["exudates"].write_text("<html>")
    line = f"evaluate --model {tmp_path / 'toy'} --data folder --data-root {data} --output {tmp_path / 'out'}"
    assert main([*line.split(), "--drawings", "0"]) == 1
    said = capsys.readouterr()
    assert examples[1].photo.name in said.err and examples[2].masks["exudates"].name in said.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["left_out"]["failed"]) == 2 and metrics["data"]["judged"] == 4
    assert metrics["figures"]["exudates"]["aupr_interval"] == [None, None]
    assert "4 photographs." in said.out and "report.html shows it all" in said.out
    assert main([*line.split(), "--kind", "classifier"]) == 2  # the run is a segmenter
    assert "is a segmenter and a classifier is needed" in capsys.readouterr().err


def test_a_second_start_does_only_what_is_missing(own, data, tmp_path, monkeypatch):
    done, real = [], counts.count_photo

    def counting(example, runs):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(example.name)
        return real(example, runs)

    model, whole = toy(tmp_path, own), evaluate(toy(tmp_path, own), data, tmp_path / "whole")
    monkeypatch.setattr(counts, "count_photo", counting)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()
    first = list(done)
    monkeypatch.setattr(counts, "count_photo", lambda example, runs: done.append(example.name) or real(example, runs))
    assert evaluate(model, data, tmp_path / "out").metrics == whole.metrics
    assert first == [one.name for one in own[1][:3]] and done[3:] == [one.name for one in own[1][3:]]
    for name in ("metrics.json", "photographs.csv", "report.html"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    shutil.copy(read_folder(data).examples[4].masks["exudates"], read_folder(data).examples[5].masks["exudates"])
    done.clear()
    evaluate(model, data, tmp_path / "out")
    assert done == [own[1][5].name]  # its mask is another


def test_names_are_escaped(own, data, tmp_path):
    bad = "<img src=x onerror=alert(1)>'\"&{{ 7*7 }}"
    example = read_folder(data).examples[0]
    for path in [example.photo, *filter(None, example.masks.values())]:
        path.rename(path.with_name(bad + path.suffix))
    found = evaluate(toy(tmp_path, own), data, tmp_path / "out", pictures=6)
    page = (found.folder / "report.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page and "}}" in page
    assert "<script" not in page and "default-src 'none'" in page


class Stored:
    """Kept counts that are made as they are read, as those on disk are."""

    def __init__(self, photographs):
        self.photographs = photographs

    def each(self):
        for i in range(self.photographs):
            rng = np.random.default_rng(i)
            levels = np.sort(rng.choice(BINS, 3000, replace=False))
            scores = LesionScores(
                1, rng.integers(0, BINS, 5, np.uint16), *rng.integers(1, BINS, (2, 4), np.uint16), 0.1
            )
            histogram = PixelHistogram(rng.integers(1, 9, (2, 3000)), levels)
            yield str(i), PhotoCounts({"exudates": histogram}, {"exudates": scores})


def test_memory_does_not_grow_with_the_photographs():
    peaks = []
    for photographs in (30, 120):
        tracemalloc.start()
        pooled = pool_lesion(
            Stored(photographs), "exudates", 0.5, {str(i): f"pack {i % 10}" for i in range(photographs)}
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(pooled.photographs) == photographs and len(pooled.units) == 10
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 20e6


def test_the_package_knows_what_its_models_have_seen():
    """A new built-in model without new signatures would let its own photographs judge it."""
    seen, kept = json.loads((WEIGHTS / "seen.json").read_text()), open_signatures(WEIGHTS / "signatures.npz")
    assert (WEIGHTS / "signatures.npz").stat().st_size < 3e6
    for kind in ("segmenter", "classifier", "stage1"):
        card = read_card(WEIGHTS / kind)
        assert set(card.split.training) <= set(seen[kind]["training"])
        assert set(card.split.validation) <= set(seen[kind]["validation"])
        assert {*seen[kind]["training"], *seen[kind]["validation"]} <= set(kept.names)
    assert len(seen["stage1"]["validation"]) > 200  # its threshold is from all graded photographs
    assert len(seen["classifier"]["training"]) > 350  # those that weigh the spots, and those that taught its member


@needs_idrid
def test_the_package_finds_what_its_models_have_seen():
    """And finds nothing in photographs of other people."""
    idrid = sorted((SHARED / "IDRiD").rglob("IDRiD_0[17].jpg"))
    others = sorted((SHARED / "DIARETDB0").rglob("*.jpg"))[:6]
    signatures, _ = read_signatures({path.name: path for path in [*idrid, *others]})
    examples = [Example(path, None, {}, path.name, "own", path.name) for path in [*idrid, *others]]
    found = find_seen(examples, signatures, what_was_learned(load_run("builtin", "segmenter")))
    assert {name: one.part for name, one in found.items()} == {"IDRiD_01.jpg": "training", "IDRiD_07.jpg": "validation"}


def test_five_gray_levels_still_tell_eyes_apart(own):
    eyes = own[2].read(range(4))
    few = np.stack([builtin_signatures.coarse(one) for one in eyes])
    assert len(np.unique(few[0])) == 5
    kept = hold_signatures("abcd", few)
    again = hold_signatures("ABCD", np.stack([signature(np.uint8(read_photo(one.photo) * 0.8)) for one in own[1][:4]]))
    assert same_eye_score(eyes[0], kept.read([0])[0]) > 0.85
    pairs = find_same_eyes(again, kept)
    assert all(pair.score >= SAME_EYE for pair in pairs)
    assert len({pair.second for pair in find_same_eyes(hold_signatures("ABCD", eyes), kept)}) == 4
    assert not [
        pair for pair in find_same_eyes(hold_signatures("ABCD", eyes), kept) if pair.first.lower() != pair.second
    ]


def test_who_was_seen_is_read_from_the_cards():
    examples = [Example(Path(f"{i}.jpg"), True, {}, f"eye {i // 2}", "csv", f"csv:{i}") for i in range(6)]
    card = toy_card("classifier", split=SplitNames(("csv:0",), ("csv:2",)))
    card = replace(card, data=replace(card.data, training_eyes=("eye 0",)))
    assert builtin_signatures.seen_by(card, examples) == dict(training=["csv:0", "csv:1"], validation=["csv:2"])
    graded = builtin_signatures.seen_by(replace(card, metrics={"graded": {}}), examples)
    assert graded["validation"] == [f"csv:{i}" for i in range(2, 6)]


@pytest.mark.slow
def test_papermill(own, tmp_path):
    toy(tmp_path, own, [0])
    parameters = dict(model=tmp_path / "toy", data="folder", data_root=own[0], output=tmp_path / "out", drawings=20)
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    source, target = str(REPOSITORY / "nbs" / "run_evaluate.ipynb"), tmp_path / "done.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", source, str(target), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = "\n".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/markdown", ""))
        for cell in nbformat.read(target, 4).cells
        for output in cell.get("outputs", [])
    )
    assert "has learned from" in text and "| exudates |" in text and "exudates_01_best" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_the_page_in_a_browser(own, tmp_path):
    found = evaluate(toy(tmp_path, own, [0]), own[0], tmp_path / "out")
    for width, mobile in ((1280, False), (390, True)):
        with Browser(width, 900, mobile) as browser:
            browser.open((found.folder / "report.html").as_uri())
            assert browser.complaints(strict=True) == []
            loaded = (
                "[...document.images].map(one => (one.loading = 'eager', one.decode().then(() => one.naturalWidth)))"
            )
            assert min(browser.evaluate(f"Promise.all({loaded})")) > 100
            assert browser.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves


def test_what_was_counted_is_not_taken_for_what_is_weighed_anew(tmp_path):
    """A classifier that counts may change without its network: then nothing that was kept of it holds."""
    write_png(tmp_path / "eye.png", phantom(1, 200).photo)
    example, run = Example(tmp_path / "eye.png", True, {}, "eye", "own"), load_run("builtin", "classifier")
    other = (Reading("lesion", dict(exudates=1.0), 0.0, 0.5),)
    keys = {counts_key(example, one) for one in (run, replace(run, card=replace(run.card, readings=other)))}
    assert len(keys) == 2
