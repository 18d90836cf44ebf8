"Every published layout as a tiny tree with its traps, data sets by name and joined, and the two real folders."

from collections import Counter

import pytest
from toy_data import SHARED, by_name, eyes, mentions, needs_idrid, needs_screening, put, write_xls

from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.datasets import READERS, Dataset, Example, check_data, check_unique_names, read_csv
from retinal_tl.readers import (
    join_datasets,
    open_data,
    read_aptos,
    read_ddr,
    read_eophtha,
    read_eyepacs,
    read_idrid,
    read_messidor,
)
from retinal_tl.splits import split_examples

# --- the published layouts ------------------------------------------------------------------------------------------


@pytest.fixture
def idrid(tmp_path):
    root = tmp_path / "IDRiD"
    photos, truths = (
        root / "A. Segmentation/1. Original Images",
        root / "A. Segmentation/2. All Segmentation Groundtruths",
    )
    put(photos, "a. Training Set/IDRiD_01.jpg", "a. Training Set/IDRiD_02.jpg", "b. Testing Set/IDRiD_55.jpg")
    put(photos, "a. Training Set/.DS_Store", "a. Training Set/Thumbs.db", content="no picture")
    for half, name in [
        ("a. Training Set", "IDRiD_01"),
        ("a. Training Set", "IDRiD_02"),
        ("b. Testing Set", "IDRiD_55"),
    ]:
        put(
            truths / half,
            f"1. Microaneurysms/{name}_MA.tif",
            f"3. Hard Exudates/{name}_EX.tif",
            f"5. Optic Disc/{name}_OD.tif",
        )
    put(
        truths,
        "a. Training Set/2. Haemorrhages/IDRiD_01_HE.tif",
        "a. Training Set/4. Soft Exudates/IDRiD_02_SE.tif",
        "b. Testing Set/2. Haemorrhages/IDRiD_55_HE.tif",
    )
    photos, truths = root / "B. Disease Grading/1. Original Images", root / "B. Disease Grading/2. Groundtruths"
    put(photos, "a. Training Set/IDRiD_001.jpg", "a. Training Set/IDRiD_002.jpg", "b. Testing Set/IDRiD_001.jpg")
    header = "Image name,Retinopathy grade,Risk of macular edema ,,,,,,,,,\r\n"
    put(
        truths,
        "a. IDRiD_Disease Grading_Training Labels.csv",
        content=header + "IDRiD_001,0,0,,,,,,,,,\r\nIDRiD_002,3,2,,,,,,,,,\r\n",
    )
    put(truths, "b. IDRiD_Disease Grading_Testing Labels.csv", content=header + "IDRiD_001,4,0,,,,,,,,,\r\n")
    put(root / "C. Localization/1. Original Images", "a. Training Set/IDRiD_001.jpg")
    put(
        root / "C. Localization/2. Groundtruths/1. Optic Disc Center Location",
        "a. Markups.csv",
        content="Image No,X,Y\nIDRiD_001,1,2\n",
    )
    return root


def test_idrid(idrid):
    dataset = read_idrid(idrid)
    assert dataset.problems == ()
    assert Counter(example.source for example in dataset.examples) == {
        "idrid": 2,
        "idrid/test": 1,
        "idrid/grading": 2,
        "idrid/grading/test": 1,
    }
    first = dataset.examples[0]
    assert first.eye == "idrid:IDRiD_01" and first.label is True
    assert first.masks["soft_exudates"] is None and first.masks["hemorrhages"].name == "IDRiD_01_HE.tif"
    assert "soft_exudates" not in by_name(dataset)["IDRiD_55.jpg"].masks  # no folder for it in that half
    grading = [example for example in dataset.examples if "grading" in example.source]
    assert [example.label for example in grading] == [False, True, True]
    assert len({example.eye for example in grading}) == 3  # IDRiD_001 is another eye in the other half
    assert all(not example.masks for example in grading)


def test_idrid_wherever_the_root_points(idrid, tmp_path):
    examples = read_idrid(idrid).examples
    assert read_idrid(tmp_path).examples == examples
    assert read_idrid(str(idrid)).examples == examples
    assert read_idrid(idrid / "A. Segmentation").examples == examples[:3]
    assert read_idrid(idrid / "B. Disease Grading").examples == examples[3:]
    nested = tmp_path / "other" / "A.%20Segmentation"
    nested.mkdir(parents=True)
    (idrid / "A. Segmentation").rename(nested / "A. Segmentation")
    assert len(read_idrid(tmp_path / "other").examples) == 3


def test_idrid_half_downloaded(idrid):
    truths = idrid / "A. Segmentation/2. All Segmentation Groundtruths/a. Training Set"
    (truths / "2. Haemorrhages/IDRiD_01_HE.tif").unlink()
    (idrid / "A. Segmentation/1. Original Images/a. Training Set/IDRiD_02.jpg").unlink()
    dataset = read_idrid(idrid)
    assert "hemorrhages" not in dataset.examples[0].masks  # an empty folder is no statement about an eye
    assert mentions(dataset.problems, "2. Haemorrhages", "not annotated")
    assert mentions(dataset.problems, "IDRiD_02_MA.tif", "mask of no photograph")


def test_eophtha(tmp_path):
    ex, ma = tmp_path / "data/e_optha_EX", tmp_path / "data/e_optha_MA"
    put(
        ex,
        "EX/E0000404/C0001273.jpg",
        "Annotation_EX/E0000404/C0001273_EX.png",
        "healthy/E0000081/C0000930.JPG",
        "EX/E0000405/C0000001.jpg",
    )
    put(
        ma,
        "MA/E0000404/C0001273.JPG",
        "Annotation_MA/E0000404/C0001273.png",
        "MA/E0000404/C0001274.JPG",
        "Annotation_MA/E0000404/C0001274.PNG",
    )
    put(ma, "healthy/E0000082/C0000931.jpg")
    put(ma, "MA/E0000404/Thumbs.db", "Annotation_MA/Thumbs.db", content="no picture")
    for root in (tmp_path, tmp_path / "data"):
        dataset = read_eophtha(root)
        found = by_name(dataset)
        both = found["C0001273.jpg"]
        assert len(found) == 5 and set(both.masks) == {"exudates", "microaneurysms"} and both.label is True
        assert both.eye == found["C0001274.JPG"].eye == "eophtha:E0000404"
        assert "exudates" not in found["C0001274.JPG"].masks
        assert (found["C0000930.JPG"].label, found["C0000930.JPG"].masks) == (False, {"exudates": None})
        assert (found["C0000931.jpg"].label, found["C0000931.jpg"].masks) == (False, {"microaneurysms": None})
        assert (found["C0000001.jpg"].label, found["C0000001.jpg"].masks) == (
            True,
            {},
        )  # in EX, its annotation is missing
        assert len(dataset.problems) == 1 and mentions(dataset.problems, "C0000001.jpg", "not annotated")
    assert len(read_eophtha(ma).examples) == 3


def test_ddr(tmp_path):
    root = tmp_path / "DDR-dataset"
    for part, labels in [("train", "label"), ("valid", "segmentation label"), ("test", "label")]:
        put(
            root / "lesion_segmentation" / part,
            f"image/{part}-1.jpg",
            f"{labels}/EX/{part}-1.tif",
            f"{labels}/SE/{part}-1.tif",
        )
        put(root / "DR_grading", f"{part}/{part}-1.jpg", f"{part}/{part}-2.jpg", f"{part}/{part}-3.jpg")
        put(root / "DR_grading", f"{part}.txt", content=f"{part}-1.jpg 3\n{part}-2.jpg 0\n{part}-3.jpg 5\n\n")
    put(root / "lesion_segmentation/train", "image/train-9.jpg")
    for folder in (root, tmp_path):
        dataset = read_ddr(folder)
        assert Counter(example.source for example in dataset.examples) == {
            "ddr/train": 2,
            "ddr/valid": 1,
            "ddr/test": 1,
            "ddr/grading/train": 2,
            "ddr/grading/valid": 2,
            "ddr/grading/test": 2,
        }
        assert len(dataset.problems) == 3 and len(mentions(dataset.problems, "grade 5", "left out", ": 1.")) == 3
    outlined = {example.photo.name: example for example in dataset.examples if "grading" not in example.source}
    assert set(outlined["valid-1.jpg"].masks) == {"exudates", "soft_exudates"}
    assert (
        outlined["train-9.jpg"].masks == {"exudates": None, "soft_exudates": None}
        and outlined["train-9.jpg"].label is False
    )
    graded = [example for example in dataset.examples if "grading" in example.source]
    assert [example.label for example in graded] == [True, False] * 3
    assert graded[0].eye == outlined["train-1.jpg"].eye
    assert (
        len(read_ddr(root / "lesion_segmentation").examples) == 4 and len(read_ddr(root / "DR_grading").examples) == 6
    )


HEADER = ["Image name", "Ophthalmologic department", "Retinopathy grade", "Risk of macular edema "]


def test_messidor(tmp_path):
    root = tmp_path / "Messidor"
    put(
        root,
        "Base11/20051020_43808_0100_PP.tif",
        "Base11/20051020_63045_0100_PP.tif",
        "Base11/stray.tif",
        "Base12/Base12/20051021_1.tif",
    )
    put(root, "Base33/20051202_55626_0400_PP.tif", "Base33/20051205_33025_0400_PP.tif")
    write_xls(
        root / "Annotation_Base11.xls",
        [HEADER, ["20051020_43808_0100_PP.tif", "Service", 0.0, 1.0], ["20051020_63045_0100_PP.tif", "S", "3", "0"]],
    )
    write_xls(
        root / "Annotation Base12.xls",
        [HEADER, ["20051021_1.tif", "Service", " 1 ", "0"], ["20051021_2.tif", "Service", "1", "0"]],
    )
    write_xls(
        root / "Base33/Annotation_Base33.xls",
        [HEADER, ["20051202_55626_0400_PP.tif", "S", 2.0, 0.0], ["20051205_33025_0400_PP.tif", "S", 3.0, 0.0]],
    )
    for folder in (root, tmp_path):
        dataset = read_messidor(folder)
        found = by_name(dataset)
        assert {name: example.label for name, example in found.items()} == {
            "20051020_43808_0100_PP.tif": False,
            "20051020_63045_0100_PP.tif": False,
            "20051021_1.tif": True,
            "20051202_55626_0400_PP.tif": True,
            "20051205_33025_0400_PP.tif": True,
        }
        assert found["20051202_55626_0400_PP.tif"].eye == found["20051205_33025_0400_PP.tif"].eye
        assert len(dataset.problems) == 2
        assert mentions(dataset.problems, "stray.tif", "no row") and mentions(
            dataset.problems, "20051021_2.tif", "no file"
        )


def test_messidor_in_one_folder(tmp_path):
    put(tmp_path, "20051020_43808_0100_PP.tif", "20051021_1.tif")
    write_xls(tmp_path / "Annotation_Base11.xls", [HEADER, ["20051020_43808_0100_PP.tif", "Service", 0.0, 1.0]])
    write_xls(tmp_path / "Annotation_Base12.xls", [HEADER, ["20051021_1.tif", "Service", 2.0, 1.0]])
    dataset = read_messidor(tmp_path)
    assert [example.label for example in dataset.examples] == [False, True] and dataset.problems == ()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>Log in</html>", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), b"PK\x03\x04" + bytes(60)],
)
def test_messidor_table_that_is_none(tmp_path, content):
    put(tmp_path, "Base11/a.tif")
    (tmp_path / "Annotation_Base11.xls").write_bytes(content)
    with pytest.raises(RetinalError, match="Annotation_Base11.xls"):
        read_messidor(tmp_path)


def test_eyepacs(tmp_path):
    root = put(
        tmp_path / "eyepacs", "train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg", "test/1_left.jpeg"
    )
    put(root, "trainLabels.csv", content="image,level\n10_left,0\n10_right,0\n13_left,4\n13_right,1\n")
    for folder in (root, tmp_path):
        dataset = read_eyepacs(folder)
        assert [example.eye for example in dataset.examples] == ["eyepacs:10", "eyepacs:10", "eyepacs:13"]
        assert [example.label for example in dataset.examples] == [False, False, True]
        assert len(dataset.problems) == 1 and mentions(dataset.problems, "13_right", "no file")


def test_aptos(tmp_path):
    root = put(tmp_path / "aptos", "train_images/000c.png", "train_images/0024.png", "test_images/0ab.png")
    put(root, "train.csv", content="id_code,diagnosis\n000c,2\n0024,0\n")
    for folder in (root, tmp_path):
        dataset = read_aptos(folder)
        assert [(example.eye, example.label) for example in dataset.examples] == [
            ("aptos:000c", True),
            ("aptos:0024", False),
        ]
        assert dataset.problems == ()


def test_many_missing_files_are_counted(tmp_path):
    put(tmp_path, "train/0_left.jpeg")
    put(tmp_path, "trainLabels.csv", content="image,level\n" + "".join(f"{i}_left,0\n" for i in range(1000)))
    problems = read_eyepacs(tmp_path).problems
    assert len(problems) == 21 and "979" in problems[-1]


# --- by name, and several as one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(READERS) - {"synthetic"}))
def test_wrong_folder(tmp_path, name):
    put(tmp_path / "holiday", "beach.jpg")
    with pytest.raises(RetinalError, match="holiday.*beach.jpg.*data_root"):
        open_data(name, tmp_path / "holiday")
    with pytest.raises(RetinalError, match="nowhere.*is not a folder"):
        open_data(name, tmp_path / "nowhere")
    with pytest.raises(RetinalError, match="beach.jpg is not a folder"):
        open_data(name, tmp_path / "holiday/beach.jpg")


def test_unknown_name(tmp_path):
    with pytest.raises(RetinalError, match="did you mean 'eophtha'"):
        open_data("e-ophtha", tmp_path)


def test_join(tmp_path, idrid):
    put(tmp_path / "screening", "images/a.jpg")
    put(
        tmp_path / "screening", "labels.csv", content="image,lesion,idrid_segmentation_image\nimages/a.jpg,1,IDRiD_01\n"
    )
    first, second = read_idrid(idrid / "A. Segmentation"), read_csv(tmp_path / "screening")
    joined = join_datasets([first, second, first])
    assert joined.name == "idrid+csv+idrid" and joined.root == tmp_path and len(joined.examples) == 4
    assert len(joined.problems) == 3 and joined.examples[0].eye == joined.examples[-1].eye
    with pytest.raises(RetinalError):
        join_datasets([])


def clinic(root, *names):
    "A folder of photographs with a table."
    put(root, *names)
    put(root, "labels.csv", content="image,lesion\n" + "".join(f"{name},1\n" for name in names))
    return root


def test_joined_data_sets_have_names_of_their_own(tmp_path):
    one, two, three = (clinic(tmp_path / name, "patient0/left.png", "patient1/left.png") for name in "abc")
    joined = join_datasets([read_csv(one), read_csv(two), read_csv(three), read_csv(one)])
    assert [example.name for example in joined.examples] == [
        f"csv:patient{i}/left.png{number}" for number in ("", "#2", "#3") for i in range(2)
    ]
    check_unique_names(joined.examples)
    twins = tuple(Example(one / f"patient{i}/left.png", True, {}, "x:1", "x") for i in range(2))
    with pytest.raises(RetinalError, match="called x:left.png"):
        join_datasets([Dataset("x", one, twins), read_csv(two)])


def test_a_copy_of_a_published_set_inside_is_told(idrid):
    "Two copies of one layout would be one eye under one name, twice."
    (idrid / "copy").mkdir()
    (idrid / "A. Segmentation").rename(idrid / "copy/A. Segmentation")
    put(idrid / "A. Segmentation/1. Original Images", "a. Training Set/IDRiD_01.jpg")
    (idrid / "A. Segmentation/2. All Segmentation Groundtruths").mkdir()
    with pytest.raises(RetinalError, match=r"called idrid:IDRiD_01.jpg: .*read one copy only"):
        open_data("idrid", idrid)


def test_names_of_published_sets(idrid, tmp_path):
    assert {example.name for example in read_idrid(idrid).examples} == {
        "idrid:IDRiD_01.jpg",
        "idrid:IDRiD_02.jpg",
        "idrid/test:IDRiD_55.jpg",
        "idrid/grading:IDRiD_001.jpg",
        "idrid/grading:IDRiD_002.jpg",
        "idrid/grading/test:IDRiD_001.jpg",
    }
    ex = tmp_path / "e_optha_EX"
    put(ex, "EX/E0000404/C1.jpg", "Annotation_EX/E0000404/C1.png", "EX/E0000405/C1.jpg", "EX/alone.jpg")
    names = [example.name for example in read_eophtha(ex).examples]
    assert names == ["eophtha:alone.jpg", "eophtha:E0000404/C1.jpg", "eophtha:E0000405/C1.jpg"]


def test_a_plus_in_the_name_of_a_folder(tmp_path):
    roots = [clinic(tmp_path / name, "a.png") for name in ("left+right", "other", "a+b+c")]
    assert open_data("csv", roots[0]).root == roots[0]
    for chosen in (roots[:2], roots[1::-1], roots, roots[::-1]):
        data = "+".join(["csv"] * len(chosen))
        joined = open_data(data, "+".join(map(str, chosen)))
        assert joined.examples == open_data(data, chosen).examples == open_data(data, tuple(chosen)).examples
        assert [example.photo.parent for example in joined.examples] == chosen


def test_folders_that_can_be_told_apart_in_two_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b+c", "a+b", "c"):
        clinic(tmp_path / name, "a.png")
    with pytest.raises(RetinalError, match=r"'a' and 'b\+c' or 'a\+b' and 'c'.*list"):
        open_data("csv+csv", "a+b+c")
    assert len(open_data("csv+csv", ["a+b", "c"]).examples) == 2


def test_folders_that_are_not_there_or_too_few(tmp_path):
    root = clinic(tmp_path / "a", "a.png")
    with pytest.raises(RetinalError, match="nowhere is not a folder"):
        open_data("csv+csv", f"{root}+{tmp_path}/nowhere")
    with pytest.raises(RetinalError, match="names 2 data sets"):
        open_data("csv+csv", root)
    with pytest.raises(RetinalError, match="names 2 data sets"):
        open_data("csv+csv", f"{root}+{tmp_path}/no+where")
    with pytest.raises(RetinalError, match="names 2 data sets and data_root 1 folders"):
        open_data("csv+csv", [root])
    with pytest.raises(RetinalError, match="data is 'idrid'; give its folder as data_root"):
        open_data("csv+idrid", [root, None])


def test_numbers_are_names_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clinic(tmp_path / "2019", "a.png")
    clinic(tmp_path / "2020", "b.png")
    assert [example.name for example in open_data("csv", 2019).examples] == ["csv:a.png"]
    assert len(open_data("csv+csv", [2019, 2020]).examples) == len(open_data("csv+csv", "2019+2020").examples) == 2


def test_an_unknown_name_is_told_before_folders_are_looked_at(tmp_path):
    with pytest.raises(RetinalError, match="no data set 'nosuch'; choose from synthetic, idrid"):
        open_data("nosuch")
    with pytest.raises(RetinalError, match="did you mean 'idrid'"):
        open_data("csv+idird", "nowhere")


@pytest.fixture
def own_reader():
    "Adds readers of a test, and takes them out again."
    added = []

    def add(name, reader, **needs):
        READERS.add(name, reader, **needs)
        added.append(name)

    yield add
    for name in added:
        READERS.remove(name)


def test_a_reader_of_ones_own(tmp_path, own_reader):
    def read_clinic(root):
        photos = sorted(root.rglob("*.png"))
        names = [f"clinic:{photo.relative_to(root).as_posix()}" for photo in photos]
        found = [Example(photo, True, {}, name, "clinic", name) for photo, name in zip(photos, names)]
        return Dataset("clinic", root, tuple(found), ("odd.",))

    own_reader("clinic", read_clinic, root=True, table=False)
    root = clinic(tmp_path / "clinic", "patient0/left.png", "patient1/left.png")
    assert open_data("clinic", str(root)) == read_clinic(root)
    assert [example.name for example in open_data("csv+clinic", [root, root]).examples] == [
        "csv:patient0/left.png",
        "csv:patient1/left.png",
    ]  # the same files
    assert READERS.fingerprint("clinic") != ""
    with pytest.raises(RetinalError, match="data is 'clinic'"):
        open_data("clinic")


def test_readers_that_give_something_wrong(tmp_path, own_reader):
    twice = tuple(Example(tmp_path / f"{i}/left.png", True, {}, f"x:{i}", "x") for i in range(2))
    own_reader("doubles", lambda root: Dataset("x", root, twice), root=True, table=False)
    own_reader("listed", lambda root, csv: [root, csv], root=True, table=True)
    own_reader("empty", lambda root: Dataset("x", tmp_path, ()), root=False, table=False)
    with pytest.raises(RetinalError, match=r"called x:left.png: .* a name of its own"):
        open_data("doubles", tmp_path)
    with pytest.raises(RetinalError, match="reader of listed must give a Dataset, and gives a list"):
        open_data("listed", tmp_path)
    with pytest.raises(RetinalError, match="No photographs were found"):
        open_data("empty")


# --- the real folders -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_idrid
def test_real_idrid():
    dataset = read_idrid(SHARED / "IDRiD")
    assert dataset.problems == () and read_idrid(SHARED).examples == dataset.examples
    training = [example for example in dataset.examples if example.source == "idrid"]
    assert len(training) == 54 and all(set(example.masks) == set(LESIONS) for example in training)
    outlined = {lesion: sum(example.masks[lesion] is not None for example in training) for lesion in LESIONS}
    assert outlined == dict(exudates=54, hemorrhages=53, microaneurysms=54, soft_exudates=26)
    split = split_examples(training)
    assert len(split.validation) == 11 and sum(
        example.masks["soft_exudates"] is not None for example in split.validation
    ) in (5, 6)
    assert check_data(Dataset("idrid", dataset.root, dataset.examples[:1])) == ()


@needs_screening
def test_real_screening():
    dataset = read_csv(SHARED / "DR-screening")
    assert dataset.problems == () and len(dataset.examples) == 389
    assert sum(example.eye.startswith("idrid:IDRiD_") for example in dataset.examples) == 46


@needs_idrid
@needs_screening
def test_real_join_keeps_eyes_together():
    joined = join_datasets([read_idrid(SHARED / "IDRiD"), read_csv(SHARED / "DR-screening", "labels.csv")])
    shared = eyes(joined.examples[:54]) & eyes(joined.examples[54:])
    assert len(shared) == 46
    split = split_examples(joined.examples)
    assert not eyes(split.training) & eyes(split.validation) and 80 <= len(split.validation) <= 95
