"Data of one's own: tables of every kind, plain folders, names, and checking."

from pathlib import Path

import numpy as np
import pytest
from toy_data import by_name, examples_of, mentions, put, write_xls

from retinal_tl import datasets
from retinal_tl.core import RetinalError, printable
from retinal_tl.datasets import (
    READERS,
    Dataset,
    Example,
    check_data,
    check_unique_names,
    read_csv,
    read_folder,
    read_synthetic,
)
from retinal_tl.layouts import read_table
from retinal_tl.leakage import Pair
from retinal_tl.readers import open_data, read_data
from retinal_tl.synthetic import write_synthetic

# --- plain folders --------------------------------------------------------------------------------------------------


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
        assert "soft_exudates" not in found["c.png"].masks and found["c.png"].label is None  # nobody can tell
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
        "image;lesion\r\na.png;1,0\r\nb.png;0,0\r\n",
        "sep=;\r\nimage;lesion\r\na.png;1\r\nb.png;0\r\n",
        '\ufeff"sep=|"\nimage|lesion\na.png|1\nb.png|0\n',
        "\nSEP=\t\nimage\tlesion\na.png\tTRUE\nb.png\tno\n",
        *(
            f"image;lesion\na.png;{yes}\nb.png;{no}\n"
            for yes, no in [("WAHR", "FALSCH"), ("VRAI", "FAUX"), ("Sí", "NO")]
        ),
        "image;lesion\na.png;PRAWDA\nb.png;FAŁSZ\n",
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
        (b"PK\x03\x04" + bytes(60), "Excel workbook; save it as 'CSV UTF-8'"),
        ("sep=;\n", "empty"),
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
        ("twin,1", "can mean twin.jpg or twin.png"),
        ('b.png,"0,5"', "unknown label '0,5'"),
        ("b.png,nan", "unknown label 'nan'"),
        ("b" * 300 + ".png,1", "has no file"),
    ],
)
def test_bad_rows_cost_themselves_alone(tmp_path, row, words):
    root = own(tmp_path / "data", f"image,lesion\na.png,1\n{row}\n")
    put(tmp_path, "b.png")
    put(root, "twin.png", "twin.jpg")
    (root / "link.png").symlink_to(tmp_path / "b.png")
    dataset = read_csv(root)
    assert [example.photo.name for example in dataset.examples] == ["a.png"]
    (problem,) = mentions(dataset.problems, words, "line 3")
    assert "labels.csv, line 3" in problem and "\n" not in problem and "\0" not in problem


@pytest.mark.parametrize(
    "name, file",
    [
        ("a", "a.png"),
        ("images/a", "images/a.jpg"),
        ("A.PNG", "a.png"),
        ("Images/A", "images/a.jpeg"),
        ("images\\A.JPG", "images/a.jpg"),
        ("f\u00fcnf.png", "fu\u0308nf.png"),
        ("fu\u0308nf.png", "f\u00fcnf.png"),
        ("FU\u0308NF", "f\u00fcnf.tif"),
    ],
)
def test_names_that_are_not_quite_a_file(tmp_path, name, file):
    put(tmp_path, file, "healthy.png", "masks/1.png")
    put(tmp_path, "labels.csv", content=f"image,lesion,mask_exudates\n{name},1,masks/1\nhealthy.png,0,\n")
    dataset = read_csv(tmp_path)
    assert [example.photo for example in dataset.examples] == [tmp_path / file, tmp_path / "healthy.png"]
    assert dataset.examples[0].masks == {"exudates": tmp_path / "masks/1.png"} and dataset.problems == ()
    assert dataset.notes == (
        f"labels.csv, line 2: {printable(name)} is read as {file}.",
        "labels.csv, line 2: masks/1 is read as masks/1.png.",
    )
    assert [example.photo for example in open_data("csv", tmp_path).examples] == [
        tmp_path / file,
        tmp_path / "healthy.png",
    ]


def test_no_name_is_guessed_between_two(tmp_path):
    put(tmp_path, "a.PNG", "a.png", "b.png", "b.tif", "c.png")
    put(tmp_path, "labels.csv", content="image,lesion\nA.png,1\nb,1\na.png,0\nb.tif,0\nc,1\nc.png,0\n")
    dataset = read_csv(tmp_path)
    assert [example.photo.name for example in dataset.examples] == ["a.png", "b.tif"]
    assert mentions(dataset.problems, "line 2", "A.png can mean a.PNG or a.png") and mentions(
        dataset.problems, "line 3", "b can mean b.png or b.tif"
    )
    assert mentions(dataset.problems, "lines 6, 7", "contradict")  # both rows mean c.png


def test_a_table_of_which_nothing_is_left_says_why(tmp_path):
    root = own(tmp_path, "image,lesion\nx.png,1\ny.png,0\n")
    with pytest.raises(
        RetinalError, match=r"labels.csv, line 2: x.png has no file; left out; see .retinal_tl check-data"
    ):
        open_data("csv", root)
    assert read_data("csv", root).examples == () and len(read_data("csv", root).problems) == 2


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
    header = "image,mask_exudates,mask_hemorrhages,mask_microaneurysms\n"
    dataset = read_csv(own(tmp_path, header + "a.png,masks/a.png,absent,\nb.png,,absent,masks/none.png\n"))
    a, b = dataset.examples
    assert a.masks == {"exudates": tmp_path / "masks/a.png", "hemorrhages": None} and a.label is True
    assert b.masks == {"hemorrhages": None} and b.label is None  # somebody has drawn microaneurysms
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
        read_csv(None, root / "labels.csv").examples == READERS["csv"](None, root / "labels.csv").examples == examples
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


def test_examples_are_values():
    assert len(set(examples_of(6) + examples_of(6))) == 6


# --- names ----------------------------------------------------------------------------------------------------------


def patients(root):
    "The layout of many clinics: a folder for each patient, the same two file names in each."
    names = [f"patient{i}/{side}.png" for i in range(3) for side in ("left", "right")]
    put(root, *names)
    put(root, "labels.csv", content="image,lesion,split\n" + "".join(f"{name},1,\n" for name in names))
    return names


def test_photographs_of_one_file_name_have_names_of_their_own(tmp_path):
    names = patients(tmp_path / "clinic")
    examples = read_csv(tmp_path / "clinic").examples
    assert [example.name for example in examples] == [f"csv:{name}" for name in names]
    assert [example.eye for example in examples] == [f"csv:{name}" for name in names]  # as ever: each stands alone
    check_unique_names(examples)
    put(tmp_path / "clinic", "labels.csv", content="photo,lesion,split\npatient1/left.png,1,test\n")
    assert read_csv(tmp_path / "clinic").examples[0].name == "csv/test:patient1/left.png"


def test_names_do_not_hold_the_folder_of_the_day(tmp_path):
    patients(tmp_path / "clinic")
    names = [example.name for example in read_csv(tmp_path / "clinic").examples]
    (tmp_path / "clinic").rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    for root, table in [(tmp_path / "moved", None), (None, tmp_path / "moved/labels.csv"), (tmp_path / "link", None)]:
        assert [example.name for example in read_csv(root, table).examples] == names
    # A table that is given by another way to the same folder.
    assert [example.name for example in read_csv(tmp_path / "moved", tmp_path / "link/labels.csv").examples] == names


def test_names_of_a_plain_folder(tmp_path, monkeypatch):
    put(tmp_path / "own", "images/a.png", "images/b.png")
    put(tmp_path / "own", "labels.csv", content="image,lesion,split\na.png,1,training\n")
    for root in (tmp_path / "own", tmp_path):
        names = [example.name for example in read_folder(root).examples]
        assert names == ["folder/train:images/a.png", "folder:images/b.png"]
    monkeypatch.chdir(tmp_path)
    assert [example.name for example in read_folder("own").examples] == names


def test_one_name_twice_is_told(tmp_path):
    twins = [Example(tmp_path / f"{i}/left.png", True, {}, f"x:{i}", "x") for i in range(2)]
    with pytest.raises(RetinalError, match=r"called x:left.png: .*0/left.png and .*1/left.png") as error:
        check_unique_names(twins)
    assert "\n" not in str(error.value)
    check_unique_names([twins[0], Example(twins[1].photo, True, {}, "x:1", "x", "x:1/left.png")])
    check_unique_names([])


# --- by name --------------------------------------------------------------------------------------------------------


def test_readers_say_what_they_need():
    assert [READERS.needs(name) for name in ("synthetic", "csv", "folder", "idrid")] == [
        dict(root=False, table=False),
        dict(root=False, table=True),
        dict(root=True, table=False),
        dict(root=True, table=False),
    ]
    assert set(READERS) == {
        "synthetic",
        "idrid",
        "eophtha",
        "ddr",
        "messidor",
        "eyepacs",
        "aptos",
        "coco",
        "csv",
        "folder",
    }
    assert all(callable(READERS[name]) and READERS.fingerprint(name) == "" for name in READERS)


def test_phantoms_are_drawn_where_none_are(tmp_path, monkeypatch):
    asked = []

    def few(folder, **settings):
        asked.append((folder, settings))
        return write_synthetic(folder, count=4, size=128)

    monkeypatch.setattr(datasets, "write_synthetic", few)
    monkeypatch.chdir(tmp_path)
    dataset = read_synthetic()
    assert asked == [(Path("data/synthetic"), dict(count=240, size=512, seed=0))]
    assert dataset.name == "synthetic" and dataset.examples == read_folder("data/synthetic").examples
    assert [example.name for example in dataset.examples] == [f"folder:images/phantom_000{i}.jpg" for i in range(4)]
    assert [example.eye for example in dataset.examples] == [f"folder:images/phantom_000{i}.jpg" for i in range(4)]
    assert len(read_synthetic(tmp_path / "elsewhere").examples) == 4
    with pytest.raises(RetinalError, match="holds something other than"):
        read_synthetic(put(tmp_path / "taken", "a.png"))


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


def test_check_data_knows_pairs_by_path_and_by_name(tmp_path):
    put(tmp_path, "images/a.png", "images/b.png")
    dataset = read_folder(tmp_path)
    for first, second in [("images/a.png", "images/b.png"), ("folder:images/a.png", "folder:images/b.png")]:
        paths = [name if ":" in name else str(tmp_path / name) for name in (first, second)]
        assert mentions(check_data(dataset, [Pair(*paths, 0.91)]), "same eye", "0.91")
    together = Dataset("x", tmp_path, tuple(Example(e.photo, None, {}, "x:1", "x") for e in dataset.examples))
    assert not mentions(check_data(together, [Pair("x:a.png", "x:b.png", 0.91)]), "same eye")
