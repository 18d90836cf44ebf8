"Every published layout as a tiny tree with its traps, bad tables of every kind, splits, and the two real folders."

import os
import random
import struct
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.datasets import (
    READERS,
    Dataset,
    Example,
    check_data,
    join_datasets,
    read_aptos,
    read_csv,
    read_dataset,
    read_ddr,
    read_eophtha,
    read_eyepacs,
    read_folder,
    read_idrid,
    read_messidor,
    read_table,
    split_examples,
)

SHARED = Path(os.environ.get("RETINAL_TL_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
needs_idrid = pytest.mark.skipif(not (SHARED / "IDRiD").is_dir(), reason="IDRiD is not here")
needs_screening = pytest.mark.skipif(not (SHARED / "DR-screening").is_dir(), reason="DR-screening is not here")


def eye(size=64):
    photo = np.zeros((size, size, 3), np.uint8)
    cv2.circle(photo, (size // 2, size // 2), size * 7 // 15, (40, 80, 170), -1)
    cv2.circle(photo, (size * 2 // 3, size // 2), size // 12, (120, 190, 230), -1)
    return photo


def put(folder, *names, content=None):
    "Files below `folder`: a drawn eye, or the text, bytes or array given."
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_bytes(content.encode())
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_bytes(cv2.imencode(path.suffix, eye() if content is None else content)[1].tobytes())
    return folder


def write_xls(path, rows):
    "A sheet of the oldest Excel format (BIFF2): texts as labels, numbers as numbers."
    record = lambda kind, data: struct.pack("<HH", kind, len(data)) + data
    body = b""
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if isinstance(value, str):
                body += record(4, struct.pack("<HH3sB", i, j, bytes(3), len(value)) + value.encode())
            else:
                body += record(3, struct.pack("<HH3sd", i, j, bytes(3), value))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record(9, struct.pack("<HH", 2, 16)) + body + record(10, b""))


def by_name(dataset):
    return {example.photo.name: example for example in dataset.examples}


def mentions(problems, *words):
    return [problem for problem in problems if all(word in problem for word in words)]


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


def test_plain_folder(tmp_path):
    root = put(tmp_path / "own", "images/eye 1.png", "images/eye 1_2.png", "images/b.JPG", "images/c.png")
    put(
        root,
        "masks/exudates/eye 1_EX.tif",
        "masks/exudates/eye 1_2.png",
        "masks/soft_exudates/b.png",
        "masks/exudate/c.png",
    )
    put(root, "masks/exudates/lost.png", "masks/soft_exudates/c.png", "masks/soft_exudates/c_SE.png")
    for folder in (root, tmp_path):
        dataset = read_folder(folder)
        found = by_name(dataset)
        assert found["eye 1.png"].masks["exudates"].name == "eye 1_EX.tif"
        assert found["eye 1_2.png"].masks["exudates"].name == "eye 1_2.png"
        assert found["b.JPG"].masks["exudates"] is None and found["b.JPG"].label is True
        assert "soft_exudates" not in found["c.png"].masks and found["c.png"].label is False
        assert len(dataset.problems) == 3
        assert mentions(dataset.problems, "lost.png") and mentions(dataset.problems, "masks/exudate", "mean exudates")
        assert mentions(dataset.problems, "c.png has 2 masks of soft_exudates")


def test_plain_folder_with_table(tmp_path):
    put(tmp_path, "images/a.png", "images/b.png", "images/c.png", "images/d.png", "masks/exudates/a.png")
    put(
        tmp_path, "labels.csv", content="image,lesion,eye,split\na.png,1,x,test\nimages/b.png,0,x,\nc.png,maybe,,test\n"
    )
    dataset = read_folder(tmp_path)
    assert [(example.photo.name, example.label, example.eye, example.source) for example in dataset.examples] == [
        ("a.png", True, "csv:x", "folder/test"),
        ("b.png", False, "csv:x", "folder"),
        ("d.png", False, "folder:images/d", "folder"),
    ]
    assert (
        len(dataset.problems) == 2
        and mentions(dataset.problems, "maybe")
        and mentions(dataset.problems, "d.png", "no row")
    )


def test_plain_folder_of_photographs_alone(tmp_path):
    dataset = read_folder(put(tmp_path, "images/a.png"))
    assert [(example.label, dict(example.masks)) for example in dataset.examples] == [
        (None, {})
    ] and dataset.problems == ()


def test_two_photographs_with_one_stem(tmp_path):
    dataset = read_folder(put(tmp_path, "images/a.png", "images/a.jpg", "masks/exudates/a.png"))
    assert len(dataset.examples) == 1 and mentions(dataset.problems, "a.png is left out", "a.jpg has the same name")


@pytest.mark.parametrize("name", sorted(READERS))
def test_wrong_folder(tmp_path, name):
    put(tmp_path / "holiday", "beach.jpg")
    with pytest.raises(RetinalError, match="holiday.*beach.jpg.*data_root"):
        read_dataset(name, tmp_path / "holiday")
    with pytest.raises(RetinalError, match="nowhere.*is not a folder"):
        read_dataset(name, tmp_path / "nowhere")
    with pytest.raises(RetinalError, match="beach.jpg is not a folder"):
        read_dataset(name, tmp_path / "holiday/beach.jpg")


def test_unknown_name(tmp_path):
    with pytest.raises(RetinalError, match="did you mean 'eophtha'"):
        read_dataset("e-ophtha", tmp_path)


# --- tables ---------------------------------------------------------------------------------------------------------


def own(tmp_path, text, *names):
    "A folder with photographs and a table."
    put(tmp_path, *(names or ("a.png", "b.png")))
    put(tmp_path, "labels.csv", content=text)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "image,lesion\na.png,1\nb.png,0\n",
        "\ufeffimage,lesion\r\na.png,1\r\nb.png,0\r\n",
        "image;lesion\na.png;1\nb.png;0",
        "image\tlesion\r\na.png\t1\r\nb.png\t0\r\n",
        "image,lesion\ra.png,1\rb.png,0\r",
        "\n\nphoto,lesion,,\n\na.png,1,,\n,,,\nb.png,0,,\n",
        '"Image" , "LESION"\n"a.png","1"\n"b.png","0"\n'.replace(" ,", ",").replace(", ", ","),
        "image;lesion;note\na.png;yes;1,5\nb.png;no;2,5\n",
        "image,lesion\na.png,1.0\nb.png,FALSE\n",
        b"\xff\xfe" + "image\tlesion\r\na.png\t1\r\nb.png\t0\r\n".encode("utf-16-le"),
    ],
)
def test_table_dialects(tmp_path, text):
    dataset = read_csv(own(tmp_path, text))
    assert [(example.photo.name, example.label) for example in dataset.examples] == [("a.png", True), ("b.png", False)]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("file,lesion\na.png,1\n", "no column 'image'; its columns are file, lesion"),
        ("image,grade\na.png,1\n", "no column 'lesion'; its columns are image, grade"),
        ("image,lesion,lesion\na.png,1,0\n", "two columns 'lesion'"),
        ("image,mask_exudate\na.png,\n", "did you mean mask_exudates"),
        (b"image,lesion\n\xe4.png,1\n", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "UTF-8"),
        ('image,lesion\n"a.png,1\nb.png,0\n', "broken"),
    ],
)
def test_unusable_tables(tmp_path, text, words):
    with pytest.raises(RetinalError) as caught:
        read_csv(own(tmp_path, text))
    assert words in str(caught.value) and "labels.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row, words",
    [
        ("b.png,maybe", "unknown label 'maybe'"),
        ("b.png,2", "unknown label '2'"),
        ("b.png,", "neither label nor mask"),
        ("c.png,1", "has no file"),
        ("../b.png,1", "leads out"),
        ("/etc/passwd,1", "leads out"),
        ("C:\\b.png,1", "leads out"),
        ("sub/../../b.png,1", "leads out"),
        ("link.png,1", "leads out"),
        (",1", "no photograph is named"),
        ("b.png,1,surplus", "more fields"),
        ("labels.csv,1", "not a picture"),
        ("b\0.png,1", "has no file"),
        ("b" * 300 + ".png,1", "has no file"),
    ],
)
def test_bad_rows_cost_themselves_alone(tmp_path, row, words):
    root = own(tmp_path / "data", f"image,lesion\na.png,1\n{row}\n")
    put(tmp_path, "b.png")
    (root / "link.png").symlink_to(tmp_path / "b.png")
    dataset = read_csv(root)
    assert [example.photo.name for example in dataset.examples] == ["a.png"]
    (problem,) = mentions(dataset.problems, words)
    assert "labels.csv, line 3" in problem and "\n" not in problem and "\0" not in problem


def test_names_with_anything_in_them(tmp_path):
    names = [
        "with space.png",
        "it's.png",
        "Ä é 眼.png",
        'quo"te.png',
        "new\nline.png",
        "n" * 251 + ".png",
        "comma,.png",
    ]
    quoted = "".join('"' + name.replace('"', '""') + '",1\n' for name in names)
    dataset = read_csv(own(tmp_path, "image,lesion\n" + quoted + '"new\nrow.png",1\n', *names))
    assert [example.photo.name for example in dataset.examples] == names
    assert len(dataset.problems) == 1 and "\n" not in dataset.problems[0]


def test_repeated_rows(tmp_path):
    dataset = read_csv(own(tmp_path, "image,lesion\na.png,1\na.png,1\n./b.png,1\nb.png,0\n"))
    assert [example.photo.name for example in dataset.examples] == ["a.png"]
    assert mentions(dataset.problems, "lines 2, 3", "a.png is repeated") and mentions(
        dataset.problems, "lines 4, 5", "contradict"
    )


def test_row_without_file_and_file_without_row(tmp_path):
    dataset = read_csv(own(tmp_path, "image,lesion\na.png,1\nz.png,1\n"))
    assert dataset.problems == (
        "labels.csv, line 3: z.png has no file; left out.",
        "b.png has no row in labels.csv; left out.",
    )


def test_masks_in_a_table(tmp_path):
    put(tmp_path, "masks/a.png", "masks/b.png")
    text = "image,mask_exudates,mask_hemorrhages,mask_microaneurysms\na.png,masks/a.png,absent,\nb.png,,absent,masks/none.png\n"
    dataset = read_csv(own(tmp_path, text))
    a, b = dataset.examples
    assert a.masks == {"exudates": tmp_path / "masks/a.png", "hemorrhages": None} and a.label is True
    assert b.masks == {"hemorrhages": None} and b.label is False
    assert len(dataset.problems) == 1 and mentions(dataset.problems, "masks/none.png has no file", "microaneurysms")


def test_groups_and_splits_in_a_table(tmp_path):
    text = (
        "image,lesion,patient,eye,idrid_segmentation_image,split\n1.png,1,p,e,,training\n2.png,0,,e,IDRiD_07,validation\n"
        "3.png,0,,,IDRiD_07,Test\n4.png,0,,idrid:IDRiD_08,,\n5.png,1,,,,later\n6.png,1,,,,\n"
    )
    dataset = read_csv(own(tmp_path, text, *(f"{i}.png" for i in range(1, 7))))
    assert [example.eye for example in dataset.examples] == [
        "csv:p",
        "csv:e",
        "idrid:IDRiD_07",
        "idrid:IDRiD_08",
        "csv:6.png",
    ]
    assert [example.source for example in dataset.examples] == ["csv/train", "csv/valid", "csv/test", "csv", "csv"]
    assert len(dataset.problems) == 1 and mentions(dataset.problems, "unknown split 'later'")


def test_which_table(tmp_path):
    root = own(tmp_path / "data", "image,lesion\na.png,1\nb.png,0\n")
    put(root, "boxes.csv", content="image,object\n")
    examples = read_csv(root).examples
    assert read_csv(root, "labels.csv").examples == read_csv(root, root / "labels.csv").examples == examples
    assert (
        read_csv(None, root / "labels.csv").examples
        == read_dataset("csv", None, root / "labels.csv").examples
        == examples
    )
    with pytest.raises(RetinalError, match="gone.csv"):
        read_csv(root, "gone.csv")
    (root / "labels.csv").rename(root / "answers.csv")
    with pytest.raises(RetinalError, match="labels.csv"):
        read_csv(root)
    (root / "boxes.csv").unlink()
    assert read_csv(root).examples == examples


def test_xls_numbers_and_texts(tmp_path):
    write_xls(tmp_path / "a.xls", [["Image name", "Grade"], ["a.tif", 2.0], ["b.tif", "2"], ["c.tif", 2.5]])
    assert [row["grade"] for _, row in read_table(tmp_path / "a.xls", ["image name", "grade"]).rows] == [
        "2",
        "2",
        "2.5",
    ]


# --- joining and splitting ------------------------------------------------------------------------------------------


def examples_of(count, source="toy", photos=2):
    kind = lambda i: i // photos % 3
    return [
        Example(
            Path(f"{source}/{i:03}.jpg"),
            kind(i) > 0,
            {"exudates": Path("m.png") if kind(i) == 1 else None},
            f"{source}:{i // photos}",
            source,
        )
        for i in range(count)
    ]


def eyes(part):
    return {example.eye for example in part}


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


def test_examples_are_values():
    assert len(set(examples_of(6) + examples_of(6))) == 6


# --- checking -------------------------------------------------------------------------------------------------------


def test_check_data_goes_on(tmp_path):
    small = np.zeros((64, 64), np.uint8)
    small[20:24, 20:24] = 255
    put(tmp_path, "images/a.png", "images/b.png", "images/c.png", "images/d.png", "images/f.png", "images/h.png")
    put(tmp_path, "images/e.png", content=np.zeros((64, 64, 3), np.uint8))
    put(tmp_path, "images/g.jpg", content="<html>")
    put(tmp_path, "masks/exudates/a.png", "masks/exudates/f.png", "masks/exudates/h.png", content=small)
    put(tmp_path, "masks/exudates/b.png", content=255 - small)
    put(tmp_path, "masks/exudates/c.png", content=small[:32])
    put(tmp_path, "masks/exudates/d.png", content=b"\x89PNG")
    put(
        tmp_path,
        "labels.csv",
        content="image,lesion\n" + "".join(f"{name}.png,1\n" for name in "abcdeh") + "f.png,0\ng.jpg,0\n",
    )
    problems = check_data(read_folder(tmp_path))
    expected = dict(b="field of view", c="c.png", d="d.png", e="e.png", f="no lesion", g="g.jpg")
    assert len(problems) == len(expected), problems
    for (name, words), problem in zip(expected.items(), problems):
        assert words in problem and f"/{name}." in problem


def test_check_data_of_a_file_that_vanished(tmp_path):
    problems = check_data(Dataset("toy", tmp_path, (Example(tmp_path / "gone.jpg", True, {}, "toy:1", "toy"),)))
    assert len(problems) == 1 and "gone.jpg" in problems[0]


# --- the real folders -----------------------------------------------------------------------------------------------


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
