"Splits by eye, digests of content, and the split that is checked before a run."

import json
import os
import random
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_data import examples_of, eyes, needs_idrid, needs_screening

from retinal_tl import leakage, splits
from retinal_tl.core import RetinalError
from retinal_tl.datasets import Example, read_csv, read_folder
from retinal_tl.leakage import hold_signatures, open_signatures, write_signatures
from retinal_tl.readers import open_data
from retinal_tl.signatures import signature
from retinal_tl.splits import (
    GuardedSplit,
    Known,
    SplitOptions,
    content_digests,
    guarded_split,
    merge_eyes,
    split_examples,
)
from retinal_tl.synthetic import phantom, write_synthetic

# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, share", [(60, 0.2), (60, 0.3), (60, 0.5), (60, 0.1), (54, 0.2), (10, 0.2), (4, 0.2), (4, 0.9)]
)
def test_split_keeps_eyes_together(count, share):
    examples = examples_of(count)
    split = split_examples(examples, share, seed=3)
    assert not eyes(split.training) & eyes(split.validation)
    assert sorted(split.training + split.validation, key=lambda example: example.photo) == examples
    assert abs(len(split.validation) - share * count) <= max(2, 0.05 * count)
    shuffled = random.Random(0).sample(examples, count)
    assert split_examples(iter(shuffled), share, seed=3) == split


def test_split_is_stratified():
    split = split_examples(examples_of(150, photos=1))
    assert Counter(example.label for example in split.validation) == {True: 20, False: 10}
    assert sum(example.masks["exudates"] is not None for example in split.validation) == 10


def test_split_of_two_eyes_and_of_one():
    split = split_examples(examples_of(4))
    assert len(split.training) == len(split.validation) == 2
    for examples in ([], examples_of(2), examples_of(8, "ddr/test")):
        with pytest.raises(RetinalError, match="too few eyes"):
            split_examples(examples)
    for share in (0, 1, -0.1, 2):
        with pytest.raises(RetinalError, match="between 0 and 1"):
            split_examples(examples_of(8), share)


def test_official_parts_win():
    examples = [
        *examples_of(8, "ddr/train"),
        *examples_of(4, "ddr/valid"),
        *examples_of(4, "ddr/grading/test"),
        *examples_of(20, "idrid"),
    ]
    split = split_examples(examples)
    assert {example.source for example in split.test} == {"ddr/grading/test"}
    sources = Counter(example.source for example in split.validation)
    assert sources == {"ddr/valid": 4, "idrid": 4}
    assert Counter(example.source for example in split.training) == {"ddr/train": 8, "idrid": 16}


def test_an_eye_in_two_official_parts():
    mixed = [Example(Path(f"{part}.jpg"), True, {}, "ddr:1", f"ddr/{part}") for part in ("train", "valid", "test")]
    split = split_examples([*mixed, *examples_of(6, "ddr/train"), *examples_of(6, "ddr/valid")])
    assert {example.photo.name for example in split.test} == {"train.jpg", "valid.jpg", "test.jpg"}


@pytest.mark.parametrize("pinned_count", [1, 10, 25, 29])
def test_pinned_eyes_train(pinned_count):
    examples = examples_of(60)
    pinned = {f"toy:{i}" for i in range(pinned_count)}
    split = split_examples(examples, pinned=pinned)
    assert pinned <= eyes(split.training) and split.validation and len(split.training) + len(split.validation) == 60
    assert len(split.validation) == min(12, 60 - 2 * pinned_count)


def test_pinned_to_the_last():
    with pytest.raises(RetinalError, match="No eye is left for validation"):
        split_examples(examples_of(8), pinned=eyes(examples_of(8)))
    test = examples_of(4, "idrid/test")
    split = split_examples([*examples_of(8), *test], pinned={test[0].eye})  # what an encoder has seen is no test
    assert test[0] in split.training and len(split.test) == 2


# --- content --------------------------------------------------------------------------------------------------------


def settle(folder):
    "Let the files be an hour old, so that their digests are remembered."
    hour_ago = time.time() - 3600
    for path in sorted(folder.rglob("*.*")):
        os.utime(path, (hour_ago, hour_ago))


@pytest.fixture(scope="module")
def drawn():
    "Eight eyes: photographs and masks of exudates."
    return [phantom(seed, size=160, lesions=("exudates",)) for seed in range(8)]


@pytest.fixture
def clinic(tmp_path, drawn):
    "Four patients, `left.png` and `right.png` of each; exudates of the left eyes are outlined, hemorrhages absent."
    root = tmp_path / "clinic"
    rows = ["image,lesion,mask_exudates,mask_hemorrhages"]
    for i, eye in enumerate(drawn):
        place = f"patient{i // 2}/{('left', 'right')[i % 2]}"
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"{place}.png"), eye.photo[..., ::-1])
        cv2.imwrite(str(root / f"{place}-mask.bmp"), np.uint8(255 * eye.masks["exudates"]))
        rows.append(f"{place}.png,1,{place}-mask.bmp,absent" if i % 2 == 0 else f"{place}.png,1,,")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    settle(root)
    return root


def test_moving_or_renaming_the_folder_changes_no_content(clinic, tmp_path):
    before = content_digests(read_csv(clinic).examples, tmp_path / "cache")
    assert len(set(before.values())) == 8 and all(len(digest) == 64 for digest in before.values())
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = clinic.rename(tmp_path / "far" / "away" / "renamed")
    assert content_digests(read_csv(moved).examples, tmp_path / "cache") == before
    assert content_digests(read_csv(moved).examples, tmp_path / "another cache") == before


def test_one_pixel_of_one_mask_changes_that_example_alone(clinic, tmp_path):
    before = content_digests(read_csv(clinic).examples, tmp_path / "cache")
    path = clinic / "patient2/left-mask.bmp"
    mask, size = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), path.stat().st_size
    mask[80, 80] ^= 255
    cv2.imwrite(str(path), mask)
    assert path.stat().st_size == size
    after = content_digests(read_csv(clinic).examples, tmp_path / "cache")
    assert [name for name in before if before[name] != after[name]] == ["csv:patient2/left.png"]
    mask[80, 80] ^= 255
    cv2.imwrite(str(path), mask)  # at once, within the grain of the clock, and of the same size
    assert content_digests(read_csv(clinic).examples, tmp_path / "cache") == before


def test_what_is_known_of_a_lesion_is_content(clinic, tmp_path):
    left = read_csv(clinic).examples[0]
    mask = left.masks["exudates"]
    states = [
        {},
        {"exudates": None},
        {"hemorrhages": None},
        {"exudates": None, "hemorrhages": None},
        {"exudates": mask},
        {"hemorrhages": mask},
        {"exudates": mask, "hemorrhages": None},
        {"exudates": left.photo},
    ]
    told = [content_digests([replace(left, masks=masks, label=True)], tmp_path)[left.name] for masks in states]
    assert len(set(told)) == len(states)
    order = dict(reversed(states[6].items()))
    assert content_digests([replace(left, masks=order, label=True)], tmp_path)[left.name] == told[6]
    labels = [content_digests([replace(left, label=label)], tmp_path)[left.name] for label in (True, False, None)]
    assert len(set(labels)) == 3
    for other in (replace(left, eye="csv:other"), replace(left, source="csv/train", name=left.name)):
        assert content_digests([other], tmp_path) == content_digests([left], tmp_path)


@pytest.fixture
def hashed(monkeypatch):
    "The files that are really read."
    found, digest = [], splits.file_digest
    monkeypatch.setattr(splits, "file_digest", lambda path: found.append(Path(path).name) or digest(path))
    return found


def test_digests_are_remembered_by_path_size_and_time(clinic, tmp_path, hashed):
    examples, cache = read_csv(clinic).examples, tmp_path / "cache"
    before = content_digests(examples, cache)
    assert len(hashed) == 12  # eight photographs, four masks
    assert content_digests(examples, cache) == before and len(hashed) == 12
    assert [path.name for path in cache.iterdir()] == ["digests.json"]
    photo = clinic / "patient0/right.png"
    os.utime(photo, (1, 1))
    assert content_digests(examples, cache) == before and hashed[12:] == ["right.png"]
    content = photo.read_bytes()
    photo.write_bytes(content[:-1])
    os.utime(photo, (1, 1))  # of another size, at the same time
    assert content_digests(examples, cache) != before and hashed[13:] == ["right.png"]
    photo.write_bytes(content)
    content_digests(examples, cache)
    content_digests(examples, cache)
    assert hashed[14:] == ["right.png"] * 2, "a file of this moment could change again without its time showing"


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"%s": 3}', '{"%s": [1, 2]}', '{"%s": [1, 2, 3, 4]}', "\0"])
def test_a_damaged_memory_of_digests_is_no_harm(clinic, tmp_path, hashed, content):
    examples, cache = read_csv(clinic).examples, tmp_path / "cache"
    before = content_digests(examples, cache)
    place = os.path.abspath(examples[0].photo)
    (cache / "digests.json").write_text(content % place if "%s" in content else content)
    assert content_digests(examples, cache) == before
    assert place in json.loads((cache / "digests.json").read_text())


def test_what_another_process_has_remembered_is_kept(clinic, tmp_path, monkeypatch):
    cache, remembered = tmp_path / "cache", splits._remembered
    content_digests(read_csv(clinic).examples[:2], cache)
    first = remembered(cache / "digests.json")
    answers = iter([{}])  # begins before the other has written
    monkeypatch.setattr(splits, "_remembered", lambda store: next(answers, None) or remembered(store))
    content_digests(read_csv(clinic).examples[4:], cache)
    assert first.items() < remembered(cache / "digests.json").items()


def test_lost_files_and_equal_names_have_no_content(clinic, tmp_path):
    examples = read_csv(clinic).examples
    with pytest.raises(RetinalError, match="called csv:patient0/left.png"):
        content_digests([examples[0], examples[0]], tmp_path)
    (clinic / "patient1/left-mask.bmp").unlink()
    with pytest.raises(RetinalError, match="left-mask.bmp could not be read"):
        content_digests(examples, tmp_path)
    assert content_digests([], tmp_path) == {}


# --- eyes that are kept together ------------------------------------------------------------------------------------


def test_pairs_of_names_that_are_not_there_change_nothing():
    examples = examples_of(6)
    names = [example.name for example in examples]
    pair = leakage.Pair
    assert merge_eyes(examples, [pair("x", "y", 0.9)]) == examples
    joined = merge_eyes(examples, [pair(names[0], "x", 0.9), pair("x", names[5], 0.9)])
    assert [example.eye for example in joined] == ["toy:0", "toy:0", "toy:1", "toy:1", "toy:0", "toy:0"]


# --- the split that is checked --------------------------------------------------------------------------------------


def names_of(part):
    return [example.name for example in part]


@pytest.mark.slow
def test_the_split_is_the_one_that_it_always_was(tmp_path):
    "What `runs` of version 0.1.0 before the rebuilding drew for these phantoms; scikit-learn's folds are part of it."
    examples = read_folder(write_synthetic(tmp_path / "phantoms", count=24, size=128)).examples
    for seed, fold, share, drawn_before in [
        (0, 0, 0.2, [0, 1, 2, 10, 17]),
        (1, 3, 0.2, [5, 7, 8, 13, 17, 22]),
        (2, 0, 0.3, [0, 1, 13, 15, 17, 21]),
    ]:
        found = guarded_split(examples, SplitOptions(share, seed, fold), Known(), tmp_path / "cache")
        assert [int(example.photo.stem[-4:]) for example in found.split.validation] == drawn_before
        assert found.split == split_examples(examples, share, seed, fold=fold)
        assert found.same_eyes == found.leaks == found.problems == found.split.test == ()
        assert found.signatures.names == tuple(names_of(found.split.training))


def test_equal_file_names_are_not_equal_eyes(clinic, tmp_path):
    "`patient0/left.png` and `patient1/left.png` were refused as the same eye on both sides of the split."
    for seed in range(4):
        found = guarded_split(read_csv(clinic).examples, SplitOptions(0.4, seed), Known(), tmp_path / "cache")
        assert found.same_eyes == found.leaks == () and len(found.split.training + found.split.validation) == 8
    names = [Example(clinic / f"patient{i}/left.png", True, {}, f"x:{i}", "x") for i in range(4)]
    with pytest.raises(RetinalError, match=r"called x:left.png: .*patient0/left.png and .*patient1/left.png"):
        guarded_split(names, SplitOptions(), Known(), tmp_path / "cache")


@pytest.fixture
def with_twin(clinic):
    "The clinic, with another photograph of the eye of patient 0 under patient 3, and two files that are no photograph."
    photo = cv2.imread(str(clinic / "patient0/left.png"))
    again = cv2.warpAffine(photo, cv2.getRotationMatrix2D((80, 80), 3, 1), (160, 160))
    cv2.imwrite(str(clinic / "patient3/later.png"), np.uint8(0.9 * again))
    (clinic / "patient3/text.png").write_text("no picture")
    cv2.imwrite(str(clinic / "patient3/black.png"), np.zeros((160, 160, 3), np.uint8))
    with open(clinic / "labels.csv", "a") as file:
        file.writelines(f"patient3/{name}.png,1,,\n" for name in ("later", "text", "black"))
    return read_csv(clinic).examples


def test_the_same_eye_is_kept_together(with_twin, tmp_path):
    for seed in range(4):
        found = guarded_split(with_twin, SplitOptions(0.3, seed), Known(), tmp_path / "cache")
        (pair,) = found.same_eyes
        assert {pair.first, pair.second} == {"csv:patient0/left.png", "csv:patient3/later.png"} and pair.score > 0.42
        assert not eyes(found.split.training) & eyes(found.split.validation)
        of_name = {example.name: example.eye for example in found.split.training + found.split.validation}
        assert of_name[pair.first] == of_name[pair.second] == "csv:patient0/left.png"
        assert len(of_name) == 9 and len(found.problems) == 2
        assert "text.png" in found.problems[0] and "black.png" in found.problems[1]


def test_what_earlier_runs_have_learned_from_is_never_judged(with_twin, tmp_path, drawn):
    cache, options = tmp_path / "cache", SplitOptions(0.4)
    judged = guarded_split(with_twin, options, Known(), cache).split.validation
    by_eye = guarded_split(with_twin, options, Known(eyes=eyes(judged)), cache)
    by_name = guarded_split(with_twin, options, Known(names=frozenset(names_of(judged))), cache)
    stack = np.stack([signature(cv2.imread(str(example.photo))[..., ::-1]) for example in judged])
    held = hold_signatures([f"elsewhere:{i}" for i in range(len(stack))], stack)
    by_vessels = guarded_split(with_twin, options, Known(signatures=(held,)), cache)
    for found in (by_eye, by_name, by_vessels):
        assert set(names_of(judged)) <= set(names_of(found.split.training)) and found.split.validation
        assert found.split == by_eye.split and found.leaks == ()
    write_signatures(tmp_path / "signatures.npz", held)
    from_disk = guarded_split(
        with_twin, options, Known(signatures=(open_signatures(tmp_path / "signatures.npz"),)), cache
    )
    assert from_disk.split == by_vessels.split
    with pytest.raises(RetinalError, match="No photographs are left to validate on"):
        guarded_split(with_twin, options, Known(eyes=eyes(with_twin)), cache)


def test_a_leak_stops_unless_it_is_allowed(with_twin, tmp_path, monkeypatch):
    "Were the same eyes not put together, the guard would see it."
    monkeypatch.setattr(splits, "merge_eyes", lambda examples, pairs: list(examples))
    cache, leaking = tmp_path / "cache", []
    for seed in range(8):
        try:
            guarded_split(with_twin, SplitOptions(0.4, seed), Known(), cache)
        except RetinalError as error:
            assert "csv:patient0/left.png" in str(error) and "csv:patient3/later.png" in str(error)
            leaking.append(seed)
    assert leaking
    found = guarded_split(with_twin, SplitOptions(0.4, leaking[0], allow_leaks=True), Known(), cache)
    assert [{pair.first, pair.second} for pair in found.leaks] == [{"csv:patient0/left.png", "csv:patient3/later.png"}]


def test_photographs_that_are_never_judged(with_twin, tmp_path):
    outlined, others = with_twin[:8:2], [*with_twin[1:8:2], *with_twin[8:]]
    for seed in range(3):
        options = SplitOptions(0.3, seed)
        found = guarded_split(outlined, options, Known(), tmp_path / "cache", others)
        alone = guarded_split(outlined, options, Known(), tmp_path / "cache")
        assert names_of(found.split.validation) == names_of(alone.split.validation)
        assert not eyes(found.split.training) & eyes(found.split.validation)
        learned, twin = names_of(found.split.training), "csv:patient3/later.png"
        assert set(names_of(with_twin[1:8:2])) <= set(learned)
        assert (twin in learned) == ("csv:patient0/left.png" in learned)


def test_nothing_is_computed_twice(with_twin, tmp_path, monkeypatch):
    "A study plans fifty runs over the same photographs."
    made, searched = [], []
    make, search = leakage._read_signature, splits.find_same_eyes
    monkeypatch.setattr(leakage, "_read_signature", lambda path: made.append(path) or make(path))
    monkeypatch.setattr(splits, "find_same_eyes", lambda *sets: searched.append(sets) or search(*sets))
    cache, options = tmp_path / "cache", SplitOptions(0.3, 0)
    first = guarded_split(with_twin, options, Known(), cache)
    assert len(made) == 11 and len(searched) == 2  # all among themselves, and training against validation
    assert guarded_split(with_twin, options, Known(), cache) == first and len(searched) == 2
    guarded_split(with_twin, SplitOptions(0.3, 0, 1), Known(), cache)
    assert len(searched) == 3 and len(made) == 11 + 2 * 2  # what cannot be read is tried again
    for kept in (cache / "same_eyes").iterdir():
        kept.write_text('{"half": ')
    assert guarded_split(with_twin, options, Known(), cache) == first and len(searched) == 5
    shutil.rmtree(cache)
    write_signatures(tmp_path / "signatures.npz", first.signatures)  # a cache may be emptied while a run trains
    assert open_signatures(tmp_path / "signatures.npz").names == tuple(names_of(first.split.training))


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    examples = [Example(tmp_path / name, True, {}, name, "x") for name in ("text.png", "gone.png")]
    with pytest.raises(RetinalError, match="None of the photographs could be read"):
        guarded_split(examples, SplitOptions(), Known(), tmp_path / "cache")


@pytest.mark.slow
@needs_idrid
@needs_screening
def test_real_photographs(tmp_path):
    "IDRiD and the screening photographs of the same eyes: the pairs that no table names are found as well."
    shared = os.environ.get("RETINAL_TL_DATA") or str(Path(__file__).resolve().parents[2] / "shared" / "data")
    everything = open_data("idrid+csv", [f"{shared}/IDRiD", f"{shared}/DR-screening"]).examples
    chosen = [one for one in everything if one.eye.startswith("idrid:") or one.photo.stem in ("IDRiD_133", "IDRiD_404")]
    found = guarded_split(chosen, SplitOptions(), Known(), tmp_path)
    assert isinstance(found, GuardedSplit) and found.problems == found.leaks == ()
    assert len(found.split.training + found.split.validation) == len(chosen) == 102
    stem = lambda name: Path(name.split(":")[1]).stem
    pairs = {frozenset((stem(pair.first), stem(pair.second))) for pair in found.same_eyes}
    assert {frozenset(("IDRiD_133", "IDRiD_282")), frozenset(("IDRiD_40", "IDRiD_133"))} <= pairs
    assert len(pairs) >= 48
    stage2 = guarded_split(chosen[:54], SplitOptions(), Known(signatures=(found.signatures,)), tmp_path)
    assert not eyes(stage2.split.validation) & eyes(found.split.training)
