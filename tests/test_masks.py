"Which files are masks of one lesion, which are maps or noise, and what a data set makes of black masks and doubts."

import cv2
import numpy as np
import pytest
from PIL import Image
from toy_data import SHARED, by_name, eye, mentions, needs_idrid, put

from retinal_tl.core import RetinalError
from retinal_tl.datasets import Dataset, Example, check_data, read_csv, read_folder
from retinal_tl.masks import inspect_mask, read_mask
from retinal_tl.readers import open_data, read_ddr, read_eophtha, read_idrid

SHAPE = (300, 400)
PAINTS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (120, 0, 0)], np.uint8)


def labels(count=4, radius=9, shape=SHAPE):
    "A map with a disc of each number."
    found = np.zeros(shape, np.uint8)
    for number in range(1, count + 1):
        cv2.circle(found, (60 * number, 40 * number), radius, number, -1)
    return found


def lesions(seed=0, shape=SHAPE, largest=9):
    "A mask of lesions of all sizes, 0 and 255."
    random, found = np.random.default_rng(seed), np.zeros(shape, np.uint8)
    for _ in range(25):
        place = tuple(int(random.integers(0, side)) for side in shape[::-1])
        axes = tuple(int(number) for number in random.integers(1, largest, 2))
        cv2.ellipse(found, place, axes, int(random.integers(180)), 0, 360, 255, -1)
    return found


def saved(path, pixels, palette=None, **options):
    "An image file; with a palette, the pixels are its numbers."
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def votes(values, shape=SHAPE):
    "Rings of how many experts agreed, the highest inside."
    found = np.zeros(shape, np.uint8)
    for radius, value in zip(range(30, 0, -30 // len(values)), values):
        cv2.circle(found, (150, 150), radius, int(value), -1)
    return found


# --- maps that are no masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, pixels, palette, words",
    [
        ("labels.png", labels(), None, "5 values (0, 1, 2, 3, 4)"),
        ("labels.tif", labels(2), None, "3 values (0, 1, 2)"),
        ("times fifty.bmp", labels() * 50, None, "5 values (0, 50, 100, 150, 200)"),
        ("ignored.png", np.where(labels(1) == 1, 1, labels(2) // 2 * 255).astype(np.uint8), None, "(0, 1, 255)"),
        ("deep.png", labels().astype(np.uint16) * 1000, None, "5 values (0, 1000, 2000, 3000, 4000)"),
        ("instances.png", labels(6, radius=7), None, "7 values"),
        ("two.png", votes([85, 170, 255]), None, "4 values (0, 85, 170, 255)"),
        ("few.png", votes([128, 255]), None, "3 values (0, 128, 255)"),
        ("colors.png", PAINTS[labels()], None, "5 colors (0/0/0, "),
        ("colors.jpg", PAINTS[labels(radius=16)], None, "5 colors"),
        ("dark.png", PAINTS[np.where(labels(2) == 2, 5, labels(2))], None, "3 colors"),  # dark red would be background
        ("faint.png", np.dstack([labels(2) == 1, labels(2) == 2, 0 * labels(2)]).astype(np.uint8), None, "3 colors"),
        ("palette.png", labels(), PAINTS, "1 = 255/0/0"),
        ("palette.tif", labels(3), np.zeros((4, 3)), "4 values (0, 1, 2, 3)"),  # a palette left empty
        ("opaque.png", np.dstack([PAINTS[labels()], np.full(SHAPE, 255, np.uint8)]), None, "5 colors"),
        ("gray.png", np.repeat(labels()[..., None], 3, 2), None, "5 values (0, 1, 2, 3, 4)"),
    ],
)
def test_a_map_of_several_things_is_refused_with_what_it_holds(tmp_path, name, pixels, palette, words):
    path = saved(tmp_path / name, pixels, palette)
    with pytest.raises(RetinalError) as caught:
        read_mask(path, SHAPE)
    message = str(caught.value)
    assert words in message and name in message and "mask of one lesion has two" in message and "\n" not in message
    assert inspect_mask(path).map in message


@pytest.mark.parametrize("value", [1, 76, 255])
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_two_values_are_a_mask(tmp_path, value, suffix):
    path = saved(tmp_path / f"mask.{suffix}", (lesions() > 0) * np.uint8(value))
    content = inspect_mask(path)
    assert (content.map, content.specks, content.top, content.marked) == ("", "", value, (lesions() > 0).sum())


@pytest.mark.parametrize(
    "soften",
    [
        lambda mask: cv2.GaussianBlur(mask, (0, 0), 0.8),
        lambda mask: cv2.GaussianBlur(mask, (0, 0), 2),
        lambda mask: cv2.resize(mask, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),  # 0, 64, 128, 191, 255
        lambda mask: cv2.resize(mask, None, fx=0.4, fy=0.4),
        lambda mask: cv2.resize(mask[:150, :200], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC),
        lambda mask: 255 - mask,
    ],
)
def test_soft_edges_are_a_mask(tmp_path, soften):
    for seed, largest in [(0, 9), (1, 4), (2, 40)]:
        mask = soften(lesions(seed, largest=largest))
        red = np.dstack([mask, 0 * mask, 0 * mask])
        paths = [saved(tmp_path / "gray.png", mask), saved(tmp_path / "red.png", red)]
        for quality in (50, 75, 95):
            paths.append(saved(tmp_path / f"gray {quality}.jpg", mask, quality=quality))
            paths.append(saved(tmp_path / f"red {quality}.jpg", red, quality=quality))
            with Image.open(paths[-2]) as image:
                image.save(tmp_path / f"was a jpeg {quality}.png")
            paths.append(tmp_path / f"was a jpeg {quality}.png")
        for path in paths:
            assert not inspect_mask(path).map, (path.name, largest)


# --- specks and stray pixels ----------------------------------------------------------------------------------------


def test_specks_are_noticed(tmp_path):
    noise = np.random.default_rng(0).random(SHAPE) < 0.01
    one = np.zeros((400, 500), np.uint8)
    one[100, 100:103] = 255
    for value in (1, 3, 255):
        found = inspect_mask(saved(tmp_path / f"{value}.png", noise * np.uint8(value)))
        assert f"pixels of value {value}" in found.specks and "specks" in found.specks
    assert "3 pixels in all" in inspect_mask(saved(tmp_path / "stray.png", one)).specks
    path = saved(tmp_path / "black.jpg", np.random.default_rng(0).integers(0, 6, SHAPE, np.uint8), quality=75)
    assert 0 < inspect_mask(path).top <= 16 and "nothing brighter than" in inspect_mask(path).specks
    assert not inspect_mask(saved(tmp_path / "few.png", labels(1, radius=2))).specks  # a microaneurysm


# --- one rule for all files of a set --------------------------------------------------------------------------------


def data(root, **masks):
    "A plain folder: a photograph for each mask, which is an array, or None for no file."
    for name, mask in masks.items():
        put(root, f"images/{name}.png", content=cv2.resize(eye(), SHAPE[::-1]))
        if mask is not None:
            saved(root / f"masks/exudates/{name}.png", mask)
    return root


def states(dataset, lesion="exudates"):
    "The mask's name, 'absent' or 'unknown', and the label, by the photograph's stem."
    said = lambda masks: "unknown" if lesion not in masks else masks[lesion].name if masks[lesion] else "absent"
    return {example.photo.stem: (said(example.masks), example.label) for example in dataset.examples}


def test_black_masks_are_absent_lesions(tmp_path):
    black = np.zeros(SHAPE, np.uint8)
    dataset = read_folder(data(tmp_path, a=lesions(), b=black, c=black, d=None))
    assert states(dataset) == dict(a=("a.png", True), b=("absent", False), c=("absent", False), d=("absent", False))
    assert dataset.notes == ("2 masks are black: read as no exudates.",) and dataset.problems == ()
    assert check_data(dataset) == () and open_data("folder", tmp_path) == dataset


def test_black_masks_of_every_layout(tmp_path):
    black, mask, root = (
        np.zeros((64, 64), np.uint8),
        lesions(shape=(64, 64)),
        tmp_path / "DDR/lesion_segmentation/train",
    )
    put(root, "image/1.jpg", "image/2.jpg")
    for lesion in ("EX", "HE", "MA", "SE"):
        put(root, f"label/{lesion}/1.tif", content=black)
        put(root, f"label/{lesion}/2.tif", content=mask if lesion == "MA" else black)
    ddr = read_ddr(tmp_path / "DDR")
    assert [example.label for example in ddr.examples] == [False, True] and len(ddr.notes) == 4
    assert {lesion: mask and mask.name for lesion, mask in ddr.examples[1].masks.items()} == dict(
        exudates=None, hemorrhages=None, microaneurysms="2.tif", soft_exudates=None
    )
    home = tmp_path / "IDRiD/A. Segmentation"
    put(home / "1. Original Images/a. Training Set", "IDRiD_01.jpg", "IDRiD_02.jpg")
    put(home / "2. All Segmentation Groundtruths/a. Training Set/3. Hard Exudates", "IDRiD_01_EX.tif", content=black)
    idrid = read_idrid(home)
    assert [(example.label, example.masks) for example in idrid.examples] == 2 * [(False, {"exudates": None})]
    put(tmp_path / "e_optha_EX", "EX/E1/C1.jpg", "EX/E1/C2.jpg", "Annotation_EX/E1/C2.png")
    put(tmp_path / "e_optha_EX", "Annotation_EX/E1/C1.png", content=black)
    eophtha = by_name(read_eophtha(tmp_path))
    assert [eophtha[name].label for name in ("C1.jpg", "C2.jpg")] == [False, True]
    put(tmp_path / "own", "a.png", "b.png", "mask.png")
    put(tmp_path / "own", "black_mask.png", content=black)
    put(
        tmp_path / "own",
        "labels.csv",
        content="image,lesion,mask_exudates\na.png,,black_mask.png\nb.png,1,black_mask.png\n",
    )
    own = by_name(read_csv(tmp_path / "own"))
    assert [(own[name].label, own[name].masks) for name in ("a.png", "b.png")] == [
        (False, {"exudates": None}),
        (True, {"exudates": None}),  # the table knows of something else
    ]


def test_levels_of_experts_are_one_set(tmp_path):
    levels = (64, 128, 191, 255)
    dataset = read_folder(data(tmp_path, a=votes(levels), b=votes(levels[:1]), c=votes(levels), d=0 * votes(levels)))
    assert states(dataset) == dict.fromkeys("abc", ("unknown", None)) | dict(d=("absent", False))
    assert len(mentions(dataset.problems, "(0, 64, 128, 191, 255)", "count as not annotated")) == 2
    assert mentions(dataset.problems, "masks/exudates/b.png", "the value 64 and others of its kind with 255")
    assert check_data(dataset) == ()  # it has been said


def test_files_among_maps_are_not_believed(tmp_path):
    one = (labels() == 4) * np.uint8(4)  # a map in which only the last lesion happens to be
    dataset = read_folder(data(tmp_path, a=labels(), b=one))
    assert states(dataset) == dict(a=("unknown", None), b=("unknown", None))
    assert mentions(dataset.problems, "b.png lies among maps of several values, such as masks/exudates/a.png")
    many = data(tmp_path / "many", a=labels() * 63, **{f"m{i}": lesions(i) for i in range(12)})
    left = [name for name, (mask, _) in states(read_folder(many)).items() if mask == "unknown"]
    assert left == ["a"]  # one broken file is no reason to doubt twelve


def test_a_faint_file_among_bright_ones_is_in_doubt(tmp_path):
    dataset = read_folder(data(tmp_path, a=lesions(0), b=lesions(1) // 255, c=lesions(2)))
    assert states(dataset) == dict(a=("a.png", True), b=("unknown", None), c=("c.png", True))
    faint = read_folder(data(tmp_path / "faint", a=lesions(0) // 255, b=lesions(1) // 255))
    assert states(faint) == dict(a=("a.png", True), b=("b.png", True)) and faint.problems == ()


def test_a_doubted_photograph_is_not_called_healthy(tmp_path):
    data(tmp_path, a=labels(), b=labels())
    saved(tmp_path / "masks/hemorrhages/b.png", lesions())
    dataset = read_folder(tmp_path)
    assert states(dataset, "hemorrhages") == dict(a=("absent", None), b=("b.png", True))
    put(tmp_path, "labels.csv", content="image,lesion\na.png,0\nb.png,\n")
    assert states(read_folder(tmp_path)) == dict(a=("unknown", False), b=("unknown", True))  # a table knows


# --- orientation notes ----------------------------------------------------------------------------------------------


def noted(path, pixels, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return saved(path, pixels, exif=exif)


@pytest.mark.parametrize("turn", [2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_only_one_of_photograph_and_mask_has_a_note(tmp_path, turn, suffix):
    photo, mask = cv2.resize(eye(), SHAPE[::-1]), lesions()
    noted(tmp_path / f"images/a.{suffix}", photo, turn)
    saved(tmp_path / "masks/exudates/a.png", mask)
    saved(tmp_path / "images/b.png", photo)
    noted(tmp_path / f"masks/exudates/b.{suffix}", mask, turn)
    noted(tmp_path / "images/c.png", photo, turn)
    noted(tmp_path / "masks/exudates/c.png", mask, turn)
    dataset = read_folder(tmp_path)
    assert states(dataset) == dict(a=("unknown", None), b=("unknown", None), c=("c.png", True))
    assert mentions(dataset.problems, "its photograph images/a", "has a note", "the mask has none")
    assert mentions(dataset.problems, "the mask has a note", "its photograph images/b.png has none")


def test_sizes_tell_whether_a_quarter_turn_is_right(tmp_path):
    noted(tmp_path / "images/a.png", cv2.resize(eye(), SHAPE[::-1]), 6)
    saved(tmp_path / "masks/exudates/a.png", lesions(shape=SHAPE[::-1]))  # drawn on what is seen
    noted(tmp_path / "images/b.png", cv2.resize(eye(), SHAPE[::-1]), 6)
    saved(tmp_path / "masks/exudates/b.png", lesions())  # drawn on what is stored
    noted(tmp_path / "images/c.png", cv2.resize(eye(), (300, 300)), 8)
    saved(tmp_path / "masks/exudates/c.png", lesions(shape=(300, 300)))  # nobody can tell
    dataset = read_folder(tmp_path)
    assert states(dataset) == dict(a=("a.png", True), b=("b.png", True), c=("unknown", None))
    (problem,) = check_data(dataset)
    assert "b.png is a mask of 400 x 300" in problem


# --- what else must not pass in silence -----------------------------------------------------------------------------


def test_masks_in_other_formats_do_not_count_as_absent(tmp_path):
    data(tmp_path, a=lesions(), b=None, c=None)
    saved(tmp_path / "masks/exudates/b.gif", lesions())
    (tmp_path / "masks/exudates/Thumbs.db").write_text("x")
    dataset = read_folder(tmp_path)
    assert states(dataset) == dict(a=("a.png", True), b=("b.gif", True), c=("absent", False))
    assert mentions(check_data(dataset), "b.gif", "GIF")


def test_what_lies_among_photographs_is_named(tmp_path):
    data(tmp_path, a=lesions())
    put(tmp_path, "images/IM0001.dcm", "images/Thumbs.db", "images/.x.dcm", "images/notes.txt", content="x")
    put(tmp_path, "images/patient_002/left.jpg")
    problems = read_folder(tmp_path).problems
    assert problems == (
        "images: 1 file not looked at, by name no picture: IM0001.dcm.",
        "images: 1 folder not looked at, as no folder is entered: patient_002.",
    )


def test_check_data_doubts_what_an_own_reader_believes(tmp_path):
    data(tmp_path, a=lesions(), b=(np.random.default_rng(0).random(SHAPE) < 0.02) * np.uint8(255), c=labels())
    masks = {name: {"exudates": tmp_path / f"masks/exudates/{name}.png"} for name in "abc"}
    examples = [Example(tmp_path / f"images/{name}.png", True, masks[name], f"x:{name}", "x") for name in "abc"]
    problems = check_data(Dataset("x", tmp_path, tuple(examples)))
    assert len(problems) == 3 and mentions(problems, "b.png", "specks") and mentions(problems, "c.png", "5 values")
    assert mentions(problems, "a.png", "the value") or mentions(problems, "a.png", "lies among maps")


@needs_idrid
@pytest.mark.slow
def test_real_masks_are_believed():
    dataset = read_idrid(SHARED / "IDRiD")
    assert dataset.problems == () and dataset.notes == () and len(dataset.examples) == 54
