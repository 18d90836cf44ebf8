"Outlines of labelling tools: as pycocotools draws them, hostile files, and what a run learns from."

import json
import math

import cv2
import numpy as np
import pytest
from pycocotools import mask as theirs
from toy_data import by_name, mentions, put

from retinal_tl import shapes
from retinal_tl.coco_data import read_coco
from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.datasets import check_data
from retinal_tl.masks import read_mask
from retinal_tl.outlines import trace_spots
from retinal_tl.readers import open_data
from retinal_tl.shapes import Outlines, fill_polygon, fill_runs, unpack_runs
from retinal_tl.splits import content_digests

CATEGORIES = [dict(id=i, name=name) for i, name in enumerate(LESIONS, 1)]
SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]
RIM = np.ones((3, 3), np.uint8)


def files(root, annotations=(), images=None, categories=CATEGORIES, names="ab"):
    "Photographs of 64 pixels and a COCO file."
    put(root, *(f"images/{name}.png" for name in names))
    images = images or [dict(id=i, file_name=f"{name}.png", width=64, height=64) for i, name in enumerate(names)]
    content = dict(images=images, annotations=list(annotations), categories=categories)
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def drawn(segmentation, image=0, category=1, number=1):
    return dict(
        id=number, image_id=image, category_id=category, segmentation=segmentation, bbox=[0, 0, 1, 1], iscrowd=0
    )


# --- pixels ---------------------------------------------------------------------------------------------------------


def test_run_lengths_equal_pycocotools():
    random = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(int(side) for side in random.integers(1, 70, 2))
        mask = random.random(shape) < random.random()
        packed = theirs.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert (fill_runs(unpack_runs(packed), shape) == mask).all()


def test_polygons_equal_pycocotools_within_their_rim():
    random = np.random.default_rng(1)
    for _ in range(60):
        height, width = (int(side) for side in random.integers(20, 120, 2))
        angles, radii = np.sort(random.random(9)) * 2 * np.pi, random.uniform(8, 60, 9)
        points = np.stack([width / 2 + radii * np.cos(angles), height / 2 + radii * np.sin(angles)], axis=1)
        packed = theirs.merge(theirs.frPyObjects([points.ravel().tolist()], height, width))
        reference, mine = theirs.decode(packed), fill_polygon(points, (height, width))
        rim = cv2.dilate(reference, RIM) > cv2.erode(reference, RIM, borderValue=0)
        assert not ((mine != (reference > 0)) & ~rim).any()
        assert abs(int(mine.sum()) - int(reference.sum())) <= 0.01 * reference.sum() + 12  # no fatter, no thinner


def test_what_we_trace_comes_back_to_the_pixel():
    random = np.random.default_rng(2)
    mask = cv2.dilate((random.random((120, 90)) < 0.01).astype(np.uint8), RIM)
    polygons = [ring for spot in trace_spots(mask > 0)[1] for polygon in spot for ring in polygon]
    back = np.zeros(mask.shape, bool)
    for ring in polygons:
        back ^= fill_polygon(ring, mask.shape)
    assert (back == (mask > 0)).all()


def test_polygons_that_are_hardly_any(tmp_path):
    for points in ([(5, 5)] * 3, [(0, 5), (9, 5), (20, 5)], [(5, 0), (5, 9), (5, 20)], [(-9, -9), (-1, -9), (-1, -1)]):
        assert not fill_polygon(np.array(points), (20, 20)).any()
    assert fill_polygon(np.array([(-1e5, -1e5), (1e5, -1e5), (1e5, 1e5), (-1e5, 1e5)]), (20, 30)).all()


# --- what a file says -----------------------------------------------------------------------------------------------


def test_a_corrected_file(tmp_path):
    runs = theirs.encode(np.asfortranarray(np.eye(64, dtype=np.uint8)))
    packed = dict(size=[64, 64], counts=runs["counts"].decode())
    plain = dict(size=[64, 64], counts=unpack_runs(packed["counts"]))
    annotations = [
        drawn([SQUARE, [40, 40, 50, 40, 50, 50]], number=1),
        drawn(packed, category=2, number=2),
        drawn(plain, category=3, number=3) | dict(iscrowd=1),
        drawn(plain, category=3, number=4) | dict(iscrowd=1),
    ]
    root = files(tmp_path / "corrected", annotations)
    for dataset in (read_coco(root), read_coco(csv=root / "annotations.json"), open_data("coco", root)):
        assert dataset.problems == () and dataset.notes == () and check_data(dataset) == ()
        first, second = dataset.examples
        masks = {lesion: mask and read_mask(mask, (64, 64)) for lesion, mask in first.masks.items()}
        assert masks["exudates"].sum() == 200 + 55 and (masks["hemorrhages"] == np.eye(64)).all()
        assert (masks["microaneurysms"] == np.eye(64)).all() and masks["soft_exudates"] is None
        assert (first.label, second.label, second.masks) == (True, False, dict.fromkeys(LESIONS))
        assert (first.name, first.eye, first.source) == ("coco:images/a.png", "coco:images/a.png", "coco")


def test_names_of_categories(tmp_path):
    names = ["Hard Exudates", "Haemorrhage", "MA", "cotton-wool spots", "optic disc", "exudats"]
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    root = files(tmp_path, [drawn([SQUARE], category=i, number=i) for i in range(1, 7)], categories=categories)
    dataset = read_coco(root)
    assert set(dataset.examples[0].masks) == set(LESIONS) and len(dataset.problems) == 2
    assert mentions(dataset.problems, "optic disc is none") and mentions(dataset.problems, "did you mean exudates?")
    files(tmp_path, categories=[dict(id=1, name="he"), dict(id=2, name="ex")])
    assert set(read_coco(tmp_path).examples[0].masks) == {"exudates", "hemorrhages"}
    files(tmp_path, categories=[dict(id=1, name="he"), dict(id=2, name="ma")])  # hard exudates, or hemorrhages?
    assert set(read_coco(tmp_path).examples[0].masks) == {"microaneurysms"}
    files(tmp_path, categories=[dict(id=1, name="cat"), dict(id=2, name="dog")])
    with pytest.raises(RetinalError, match="no category that is a lesion; its categories are cat, dog"):
        read_coco(tmp_path)


def test_where_photographs_and_the_file_may_lie(tmp_path):
    root = files(tmp_path / "cvat", [drawn([SQUARE])])
    (root / "annotations").mkdir()
    (root / "annotations.json").rename(root / "annotations/instances_default.json")
    names = ["coco:images/a.png", "coco:images/b.png"]
    assert [example.name for example in read_coco(root).examples] == names
    (root / "annotations/instances_default.json").rename(tmp_path / "elsewhere.json")
    assert [example.name for example in read_coco(root, tmp_path / "elsewhere.json").examples] == names
    with pytest.raises(RetinalError, match="does not hold outlines in COCO's format"):
        read_coco(root)
    with pytest.raises(RetinalError, match="gone.json could not be read"):
        read_coco(root, "gone.json")
    with pytest.raises(RetinalError, match="no COCO file"):
        read_coco()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(file_name="../c.png"), "leads out of the data folder"),
        (dict(file_name="/etc/passwd"), "leads out of the data folder"),
        (dict(file_name="C:\\c.png"), "leads out of the data folder"),
        (dict(file_name="gone.png"), "has no file"),
        (dict(file_name="annotations.json"), "not a picture"),
        (dict(file_name="new\nline.png"), "has no file"),
        (dict(width=63), "63 x 64 pixels, and the photograph has 64 x 64"),
        (dict(width=0), "no size in pixels"),
        (dict(width="64"), "no size in pixels"),
        (dict(width=10**9, height=10**9), "no size in pixels"),
        (dict(width=math.nan), "no size in pixels"),
        (dict(id=0), "shares its id 0"),
        (dict(file_name="a.png"), "listed 2 times"),
        (dict(file_name=None), "without id or file name"),
        (dict(id=[1]), "without id or file name"),
    ],
)
def test_an_image_that_cannot_be_used(tmp_path, change, words):
    put(tmp_path, "c.png")
    first = dict(id=0, file_name="a.png", width=64, height=64)
    root = files(tmp_path / "data", [drawn([SQUARE])], [first, first | dict(id=1, file_name="b.png") | change])
    dataset = read_coco(root)
    assert mentions(dataset.problems, words, "left out") and all("\n" not in problem for problem in dataset.problems)
    assert "b.png" not in by_name(dataset)


@pytest.mark.parametrize(
    "segmentation",
    [
        *([], None, "polygon", 7, {}, [[]], [7], [[1, 1, 2, 2]], [[1, 1, 2, 2, 3]], [["1", 1, 2, 2, 3, 3]]),
        *(
            [[1, 1, 2, 2, 3, math.nan]],
            [[1, 1, 2, 2, 3, math.inf]],
            [[1, 1, 2, 2, 3, 1e300]],
            [[1, 1, 2, 2, 3, 10**400]],
        ),
        *([[1, 1, 2, 2, True, 3]], [SQUARE, [1, 1]], [SQUARE] * 20_001),
        *(dict(size=[64, 64]), dict(size=[64, 63], counts=[64 * 63]), dict(size=[64, 64], counts=[64])),
        *(dict(size=[64, 64], counts=[-1, 64 * 64 + 1]), dict(size=[64, 64], counts=[64.0 * 64])),
        *(
            dict(size=[64, 64], counts="\x00\x01"),
            dict(size=[64, 64], counts="o" * 50),
            dict(size=[64, 64], counts="9" * 10**6),
        ),
        dict(size=[10**9, 10**9], counts=[10**18]),
    ],
    ids=lambda found: str(found)[:30].encode("unicode_escape").decode(),
)
def test_an_outline_that_cannot_be_used_costs_its_lesion_there(tmp_path, segmentation):
    annotations = [drawn([SQUARE], number=1), drawn(segmentation, number=2), drawn([SQUARE], image=1, number=3)]
    dataset = read_coco(files(tmp_path, annotations))
    (problem,) = dataset.problems
    assert "annotations.json, annotation 2 on images/a.png" in problem and "exudates count as not annotated" in problem
    first, second = dataset.examples
    assert "exudates" not in first.masks and first.label is None and first.masks["hemorrhages"] is None
    assert second.label is True and second.masks["exudates"].mask().sum() == 200


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not a JSON file"),
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("\xff\xfe", "not a JSON file"),
        ("[]", "not a COCO file"),
        ("null", "not a COCO file"),
        ('{"images": [], "categories": []}', "no list of annotations"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list of images"),
        ('{"images": [], "annotations": [], "categories": []}', "no category that is a lesion"),
        ('{"images": [1, null, {}], "annotations": [1, {}], "categories": [3, {"id": [], "name": {}}]}', "no category"),
    ],
    ids=range(10),
)
def test_files_that_are_none(tmp_path, text, words):
    (tmp_path / "annotations.json").write_text(text, encoding="latin-1")
    with pytest.raises(RetinalError) as caught:
        read_coco(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "annotations.json" in str(caught.value)


def test_entries_of_any_kind_do_no_harm(tmp_path):
    odd = [
        1,
        None,
        {},
        [],
        dict(image_id={}, category_id=1),
        dict(image_id=0, category_id=[]),
        drawn([SQUARE], image=9),
    ]
    root = files(tmp_path, [*odd, drawn([SQUARE])])
    dataset = read_coco(root)
    assert len(dataset.examples) == 2 and mentions(dataset.problems, "7 annotations of no image that is used")
    nothing = read_coco(files(tmp_path, [drawn([[-9, -9, -1, -9, -1, -1]])]))
    assert nothing.examples[0].label is False and "hold no pixel: read as no exudates" in nothing.notes[0]


def test_outlines_that_would_take_for_ever(tmp_path, monkeypatch):
    zigzag = np.array([(0, 0), (0, 6000)] * 2000, float)
    with pytest.raises(RetinalError, match="to and fro"):
        fill_polygon(zigzag, (6000, 10))
    monkeypatch.setattr(shapes, "_MAX_PAINTED", 50_000_000)
    whole = (0.0, 0.0, 3000.0, 0.0, 3000.0, 3000.0, 0.0, 3000.0)
    with pytest.raises(RetinalError, match="one above the other"):
        Outlines(tmp_path, "exudates of a", (3000, 3000), (whole,) * 6).mask()


def test_a_run_is_what_was_drawn(tmp_path):
    digest = lambda root: content_digests(read_coco(root).examples, tmp_path / "cache")["coco:images/a.png"]
    root = files(tmp_path / "one", [drawn([SQUARE]), drawn([[40, 40, 50, 40, 50, 50]], number=2)])
    before = digest(root)
    root.rename(tmp_path / "two")
    root = files(tmp_path / "two", [drawn([[40, 40, 50, 40, 50, 50]], number=7), drawn([SQUARE], number=8)])
    assert digest(root) == before  # other ids, another order, another folder
    files(root, [drawn([SQUARE]), drawn([[40, 40, 50, 40, 50, 51]], number=2)])
    assert digest(root) != before
    files(root, [drawn([SQUARE]), drawn([[40, 40, 50, 40, 50, 50]], category=2, number=2)])
    assert digest(root) != before
