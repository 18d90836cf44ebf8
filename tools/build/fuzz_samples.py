"""What `fuzz.py` damages: a few small sound files of each kind, the doors that they go through, and files made to harm.

A sample is a folder, as a dict of names and bytes. A door is what a user would call with that folder; it may raise
`RetinalError`, and nothing else. Whatever a door needs beside the case is made in a folder of its own.
"""

import hashlib
import io
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import toy_data

import toy_runs
from retinal_tl.core import RetinalError
from retinal_tl.synthetic import phantom

Sample = dict[str, bytes]
LESIONS = ("exudates", "hemorrhages")


# ---- sound files


def eye(size: int = 64) -> Image.Image:
    return Image.fromarray(phantom(3, 128, LESIONS).photo).resize((size, size))


def encoded(format: str, image: Image.Image | None = None, **options) -> bytes:
    stream = io.BytesIO()
    (image or eye()).save(stream, format, **options)
    return stream.getvalue()


def profiled() -> Image.Image:
    """An eye with an orientation, for EXIF."""
    image = eye()
    image.getexif()[0x0112] = 6
    return image


def jpegs() -> list[Sample]:
    from retinal_tl.colors import _ADOBE, _matrix_profile

    icc, exif = _matrix_profile("Adobe RGB (1998)", _ADOBE, 2.2), profiled().getexif()
    kinds = [dict(), dict(progressive=True), dict(icc_profile=icc, exif=exif), dict(quality=95, subsampling=0)]
    files = [encoded("JPEG", **options) for options in kinds]
    files += [encoded("JPEG", eye().convert(mode)) for mode in ("L", "CMYK")]
    return [{"eye.jpg": data} for data in files]


def pngs() -> list[Sample]:
    deep = cv2.imencode(".png", np.asarray(eye()).astype(np.uint16) * 250)[1].tobytes()
    modes = [eye().convert(mode) for mode in ("RGB", "RGBA", "P", "L", "1", "LA")]
    files = [deep, encoded("PNG", exif=profiled().getexif()), *(encoded("PNG", image) for image in modes)]
    return [{"eye.png": data} for data in files]


def tiffs() -> list[Sample]:
    files = [encoded("TIFF", compression=one) for one in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
    files += [encoded("TIFF", eye().convert(mode)) for mode in ("L", "1", "P", "CMYK", "RGBA")]
    files += [encoded("TIFF", eye(), save_all=True, append_images=[eye(16)])]
    files += [cv2.imencode(".tif", np.asarray(eye()).astype(np.uint16) * 250)[1].tobytes()]
    return [{"eye.tif": data} for data in files]


def webps() -> list[Sample]:
    kinds = [dict(), dict(lossless=True), dict(exif=profiled().getexif())]
    return [{"eye.webp": encoded("WEBP", **options)} for options in kinds]


def other_pictures() -> list[Sample]:
    files = [("eye.bmp", encoded("BMP")), ("gray.bmp", encoded("BMP", eye().convert("L")))]
    files += [("eye.jp2", encoded("JPEG2000")), ("eye.j2k", encoded("JPEG2000", no_jp2=True))]
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
        files.append(("eye.heic", encoded("HEIF")))
        files.append(("eye.avif", encoded("AVIF")))
    except (ImportError, KeyError, OSError):
        pass
    return [{name: data} for name, data in files]


def dicom_sets() -> list:
    """Data sets of pydicom: plain, in several photographs, compressed, of other colors, deep."""
    from pydicom.uid import ImplicitVRLittleEndian, RLELossless

    from dicom_files import add_identity, as_jpeg, as_ybr, photo_dataset

    color, gray = np.asarray(eye(64)), np.asarray(eye(64).convert("L"))
    sets = [photo_dataset(color), add_identity(photo_dataset(color)), photo_dataset(np.stack([color] * 3))]
    sets += [as_jpeg(photo_dataset(color)), as_jpeg(photo_dataset(np.stack([color] * 2))), as_ybr(photo_dataset(color))]
    sets += [photo_dataset(gray), photo_dataset(gray.astype(np.uint16) * 16, BitsStored=12, HighBit=11)]
    sets.append(photo_dataset(gray, WindowCenter=100, WindowWidth=50, RescaleSlope="2", RescaleIntercept="-3"))
    sets.append(photo_dataset(color, PixelSpacing=[0.01, 0.01], ImageLaterality="L"))
    implicit = photo_dataset(color)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    packed = photo_dataset(color)
    packed.compress(RLELossless)
    return [*sets, implicit, packed]


def saved(dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicoms() -> list[Sample]:
    try:
        return [{"eye.dcm": saved(one)} for one in dicom_sets()]
    except ImportError:
        return []


def png_mask() -> bytes:
    return cv2.imencode(".png", toy_data.outline())[1].tobytes()


def png_eye() -> bytes:
    return cv2.imencode(".png", toy_data.eye())[1].tobytes()


def tables() -> list[Sample]:
    """A table of one's own beside its photographs, in the spellings that are read."""
    pictures = {"a.png": png_eye(), "masks/a.png": png_mask(), "b c.png": png_eye()}
    text = "image,lesion,mask_exudates,patient,split\na.png,1,masks/a.png,p1,training\nb c.png,0,absent,p2,test\n"
    texts = [text, text.replace(",", ";"), "sep=\t\n" + text.replace(",", "\t")]
    texts.append('image,lesion\n"a.png",WAHR\n"b c","1,0"\n')
    files = [one.encode() for one in texts] + [
        text.encode("utf-16"),
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    ]
    return [{"labels.csv": data, **pictures} for data in files]


def excel_sheets() -> list[Sample]:
    """Messidor's old Excel files, and a new one by the same name."""
    header = ["Image name", "Ophthalmologic department", "Retinopathy grade", "Risk of macular edema"]
    rows = [header, ["a.tif", "Service", 2.0, 1.0], ["b.tif", "Service", "0", "0"]]
    pictures = {"Base11/a.tif": encoded("TIFF", eye(64)), "Base11/b.tif": encoded("TIFF", eye(64))}
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"fuzz-{os.getpid()}.xls"
    toy_data.write_xls(path, rows)
    data = path.read_bytes()
    path.unlink()
    new = zipped({"[Content_Types].xml": b"<Types/>", "xl/worksheets/sheet1.xml": b"<worksheet/>"})
    return [{"Annotation_Base11.xls": one, **pictures} for one in (data, in_ole(data), new)]


def in_ole(stream: bytes) -> bytes:
    """A sheet in the small file system in which later releases of Excel put it."""
    stream = stream.ljust(4096, b"\0")
    sectors = len(stream) // 512
    table = [1 + i + 1 if i < sectors - 1 else 0xFFFFFFFE for i in range(sectors)]
    fat = struct.pack("<128I", 0xFFFFFFFD, *table, 0xFFFFFFFE, *[0xFFFFFFFF] * (126 - sectors))
    entry = lambda name, kind, start, size, child: struct.pack(
        "<64sHBBIII16sIQQIQ", name.encode("utf-16-le"), 2 * len(name) + 2, kind, 1, 0xFFFFFFFF, 0xFFFFFFFF, child,
        bytes(16), 0, 0, 0, start, size)  # fmt: skip
    folder = entry("Root Entry", 5, 0xFFFFFFFE, 0, 1) + entry("Book", 2, 1, len(stream), 0xFFFFFFFF) + bytes(256)
    head = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + struct.pack("<HHHHH6sIIIIIIIIII", 0x3E, 3, 0xFFFE, 9, 6,
        bytes(6), 0, 1, 1 + sectors, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0, 0)  # fmt: skip
    return head[:76] + struct.pack("<109I", 0, *[0xFFFFFFFF] * 108) + fat + stream + folder


def coco_sets() -> list[Sample]:
    shape = dict(height=64, width=64)
    images = [dict(id=1, file_name="a.png", **shape), dict(id=2, file_name="images/b.png", **shape)]
    categories = [dict(id=1, name="hard exudate"), dict(id=2, name="MA"), dict(id=3, name="vessel")]
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    runs = dict(size=[64, 64], counts=[700, 5, 64 * 64 - 705])
    drawn = [dict(id=i, image_id=1 + i % 2, category_id=1 + i % 2, segmentation=shape) for i, shape in
             enumerate(([square, square[::-1]], runs, dict(size=[64, 64], counts="PQ1T`0")))]  # fmt: skip
    data = dict(images=images, categories=categories, annotations=drawn)
    return [{"annotations.json": json.dumps(data).encode(), "a.png": png_eye(), "images/b.png": png_eye()}]


def run_files(kind: str = "segmenter", lesions: Iterable[str] = LESIONS, **changes) -> Sample:
    """A run folder that works; `changes` go into its card."""
    card = toy_runs.toy_card(kind, tuple(lesions), **changes)
    rules = [toy_runs.RULES[lesion] for lesion in card.lesions] if kind == "segmenter" else toy_runs.RULES["exudates"]
    model = toy_runs.toy_model(kind, rules).SerializeToString()
    return {"model.onnx": model, "card.json": card_text(card, {"model.onnx": model})}


def card_text(card, files: Sample) -> bytes:
    from dataclasses import replace

    from retinal_tl.cards import card_to_json

    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return json.dumps(card_to_json(replace(card, files=digests))).encode()


def runs() -> list[Sample]:
    beside = {"history.csv": b"epoch,loss\n1,0.5\n", "histograms.npz": npz(names=np.array(["a"]), levels=np.arange(3.0),
              counts=np.zeros((1, 2, 3), int)), "signatures.npz": npz(names_0=np.array(["a"]))}  # fmt: skip
    return [run_files() | beside, run_files("classifier") | beside, package_files("segmenter/efficientnet_lite2")]


def package_files(name: str) -> Sample:
    """The card of a model of the package, with all that real cards say, beside a toy network."""
    from retinal_tl.core import run_folder

    card = json.loads((run_folder("builtin").parent / name / "card.json").read_text(encoding="utf-8"))
    model = toy_runs.toy_model("segmenter", [toy_runs.RULES[one] for one in card["lesions"]]).SerializeToString()
    card["files"] = {"model.onnx": hashlib.sha256(model).hexdigest()}
    return {"card.json": json.dumps(card).encode(), "model.onnx": model}


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def zipped(files: Sample) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name or "?", data)  # zipfile writes no empty name
    return stream.getvalue()


def keras_runs() -> list[Sample]:
    """A small segmenter as Keras saves it, in a run folder without ONNX. Starts TensorFlow."""
    from retinal_tl.model_files import _keras_bytes, build_model

    card = toy_runs.toy_card(lesions=("exudates",), encoder="vgg16", width=0.0625, decoder="each")
    data = _keras_bytes(build_model(card, seed=0))
    return [{"model.keras": data, "card.json": card_text(card, {"model.keras": data})}]


def torch_files() -> list[Sample]:
    """Weights as PyTorch wrote them before 1.6, and the same with a word that would run a command."""
    import pickle

    from retinal_tl.natural import _MAGIC

    tensor = (
        b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\x03\0\0\0cpuK\x0cNtQK\0K\3K\4\x86K\4K\1\x86tR"
    )
    files = []
    for word in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"cbuiltins\neval\n"):
        body = b"\x80\x02}(X\1\0\0\0w" + word + tensor + b"u."
        parts = [*(pickle.dumps(one, 2) for one in (_MAGIC, 1001, {})), body, pickle.dumps(["0"], 2)]
        files.append(b"".join(parts) + struct.pack("<q", 12) + np.arange(12, dtype="<f4").tobytes())
    return [{"weights.pth": data} for data in files]


# ---- doors: the case's folder, a folder for what is written


def attempt(*doors: Callable[[], object]) -> None:
    """Go through several doors; raises the last `RetinalError` if all of them refuse."""
    refused: list[RetinalError] = []
    for door in doors:
        try:
            door()
        except RetinalError as error:
            assert "\n" not in str(error), "a sentence of several lines"
            refused.append(error)
    if len(refused) == len(doors):
        raise refused[-1]


def the_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.is_file())


def open_pictures(folder: Path, output: Path) -> None:
    """A photograph, or a mask, as everything reads it; then its lesions."""
    from retinal_tl import images, masks
    from retinal_tl.dicom import list_dicomdir, photo_frames
    from retinal_tl.inference import classify, segment

    def use(path: Path) -> None:
        pixels = images.open_photo(path).pixels
        if pixels.size < 1_000_000:
            attempt(
                lambda: segment(pixels, output.parent / "run"), lambda: classify(pixels, output.parent / "classifier")
            )

    for path in photo_frames(the_file(folder))[:2]:
        attempt(
            lambda path=path: images.photo_size(path),
            lambda path=path: images.read_small_photo(path, 32),
            lambda path=path: masks.read_mask(path),
            lambda path=path: masks.inspect_mask(path),
            lambda path=path: list_dicomdir(path) if path.suffix == ".dcm" else None,
            lambda path=path: use(path),
        )
    images.open_photo(path)


def open_tables(folder: Path, output: Path) -> None:
    from retinal_tl.datasets import check_data
    from retinal_tl.readers import open_data

    name = "messidor" if any(path.suffix == ".xls" for path in folder.iterdir()) else "csv"
    check_data(open_data(name, folder))


def open_coco(folder: Path, output: Path) -> None:
    from retinal_tl.masks import read_mask
    from retinal_tl.readers import open_data

    dataset = open_data("coco", folder)
    for example in dataset.examples:
        for mask in example.masks.values():
            if mask is not None:
                read_mask(mask)


def open_runs(folder: Path, output: Path) -> None:
    """A run folder as everything reads it, whatever its card's digests say."""
    from retinal_tl.cards import check_files, read_card
    from retinal_tl.evaluation import read_histograms
    from retinal_tl.inference import load_run
    from retinal_tl.leakage import open_signatures

    attempt(
        lambda: read_histograms(folder / "histograms.npz"),
        lambda: open_signatures(folder / "signatures.npz").names,
        lambda: check_files(folder, read_card(folder)),
        lambda: load_run(folder),
    )


def settle(folder: Path) -> None:
    """Write the right digests into a card, as whoever made a bad file would."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        names = [name for name in card["files"] if (folder / name).is_file() and not name.startswith((".", "/"))]
        card["files"] |= {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass


def open_onnx(folder: Path, output: Path) -> None:
    """A network with the right digest, loaded and used on an eye; it may compute for seconds and not for minutes."""
    from retinal_tl import strangers
    from retinal_tl.inference import classify, load_run, segment

    strangers.MOST_SECONDS = 2
    settle(folder)
    run = load_run(folder)
    (segment if run.lesions else classify)(phantom(3, 128, LESIONS).photo, run)


def open_keras(folder: Path, output: Path) -> None:
    from retinal_tl.engine import forget_networks
    from retinal_tl.model_files import load_weights

    settle(folder)
    try:
        load_weights(folder)
    finally:
        forget_networks()


def open_weights(folder: Path, output: Path) -> None:
    from retinal_tl.natural import read_torch_weights

    read_torch_weights(the_file(folder))


def open_folder(folder: Path, output: Path) -> None:
    """A folder through the command, whose word is its exit status; a traceback is none."""
    from retinal_tl.command import main

    words = ["segment", str(folder), "--model", str(output.parent / "run"), "--output", str(output), "--format", "png"]
    status = main(words)
    if status:
        raise RetinalError(f"The command ended with {status}.")


# ---- made to harm


def png_of(width: int, height: int, pixels: bytes = b"", color: int = 2) -> bytes:
    """A PNG that claims a size; `pixels` are compressed."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many millions of zeros, deflated: one block, again and again."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    sum_of_all = struct.pack(">HH", count * 10**6 % 65521, 1)
    return head + block * count + b"\3\0" + sum_of_all


def picture_bombs() -> list[Sample]:
    """Pictures that are small on the disk and large, or endless, when they are opened."""
    bombs = {"50000.png": png_of(50_000, 50_000, zeros(90)), "most.png": png_of(2**31 - 1, 2**31 - 1)}
    bombs["flat.png"] = png_of(5_000, 5_000, zeros(76))  # within the limit
    tiff = encoded("TIFF", eye(8))
    bombs["sides.tif"] = tiff.replace(struct.pack("<HHIHH", 256, 3, 1, 8, 0), struct.pack("<HHII", 256, 4, 1, 50_000))
    chunk = lambda data: struct.pack(">I", len(data)) + b"iTXt" + data + struct.pack(">I", zlib.crc32(b"iTXt" + data))
    text = chunk(b"Comment\0\1\0\0\0" + zeros(1000))
    icc = b"x\0\0" + zeros(1000)
    profile = struct.pack(">I", len(icc)) + b"iCCP" + icc + struct.pack(">I", zlib.crc32(b"iCCP" + icc))
    whole = encoded("PNG", eye(8))
    bombs["text.png"], bombs["profile.png"] = (whole[:33] + part + whole[33:] for part in (text, profile))
    bombs["large.bmp"] = encoded("BMP", eye(8)).replace(struct.pack("<ii", 8, 8), struct.pack("<ii", 50_000, 50_000))
    vp8x = struct.pack("<I", 10) + bytes(4) + (16_383).to_bytes(3, "little") * 2
    bombs["canvas.webp"] = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + vp8x
    jpeg = encoded("JPEG", eye(8))
    at = jpeg.index(b"\xff\xc0") + 5
    bombs["claims.jpg"] = jpeg[:at] + b"\xff\xff\xff\xff" + jpeg[at + 4 :]
    scans = encoded("JPEG", eye(64).resize((800, 800)), progressive=True)
    at = scans.index(b"\xff\xda")
    bombs["scans.jpg"] = scans[:at] + scans[at:-2] * 40 + scans[-2:]  # each scan is decoded anew
    return [{name: data} for name, data in bombs.items()]


def dicom_bombs() -> list[Sample]:
    try:
        from pydicom.uid import DeflatedExplicitVRLittleEndian

        from dicom_files import as_jpeg, photo_dataset
    except ImportError:
        return []
    small = np.asarray(eye(64))
    claims = [photo_dataset(small, NumberOfFrames=frames) for frames in (10_000, 1_000, 2**31 - 1)]
    claims += [photo_dataset(small, Rows=65_535, Columns=65_535), as_jpeg(photo_dataset(small))]
    claims[-1].NumberOfFrames = 10_000
    dense = photo_dataset(small)
    dense.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dense.PixelData, dense.Rows, dense.Columns = bytes(12_000_000), 2_000, 2_000
    nested = photo_dataset(small)
    for _ in range(150):
        from pydicom.dataset import Dataset

        outer = Dataset()
        outer.SharedFunctionalGroupsSequence = [nested if _ else Dataset()]
        nested = outer
    deep = photo_dataset(small, SharedFunctionalGroupsSequence=nested.SharedFunctionalGroupsSequence)
    return [{"eye.dcm": saved(one)} for one in (*claims, dense, deep)]


def table_bombs() -> list[Sample]:
    wide = b"image,lesion\n" + b"a.png,1," * 20_000
    long = b"image,lesion\n" + b"a.png,1\n" * 5_000
    quote = b'image,lesion\n"' + b"a" * 2_000_000
    nested = zipped({"inner.zip": zipped({"inner.zip": zipped({"zeros": bytes(50_000_000)})})})
    paths = b"image,lesion\n" + b"".join(b"%s,1\n" % path for path in (
        b"../outside/secret.png", b"/etc/passwd", b"C:\\windows\\a.png", b"..\\outside\\secret.png", b"a\0.png",
        b"./././a.png", b"~/a.png", b"//server/share/a.png", b"a.png/../../outside/secret.png",
        b"x" * 70_000))  # fmt: skip
    beside = {"a.png": png_eye()}
    return [{"labels.csv": data, **beside} for data in (wide, long, quote, nested, paths)]


def json_bombs() -> list[Sample]:
    tower, number = b"[" * 100_000 + b"]" * 100_000, b'{"schema_version": ' + b"9" * 1_000_000 + b"}"
    huge = b'{"name": "' + b"x" * (17 << 20) + b'"}'
    model = run_files()["model.onnx"]
    return [
        {"card.json": data, "model.onnx": model} for data in (tower, number, huge, b'{"a":1' + b',"a":1' * 10**5 + b"}")
    ]


def coco_bombs() -> list[Sample]:
    data = json.loads(coco_sets()[0]["annotations.json"])
    comb = [value for i in range(20_000) for value in (i % 2 * 60.0, i % 3 * 30.0)]
    kinds = [[comb] * 3, [[1e5, 1e5, -1e5, 2e5, 3, 1e308]], dict(size=[64, 64], counts=[2**62, -(2**62) + 4096])]
    kinds += [dict(size=[10**9, 10**9], counts=[10**18]), [[0, 0, 64, 0, 64, 64]] * 2_000]
    found = []
    for drawn in kinds:
        changed = [dict(id=1, image_id=1, category_id=1, segmentation=drawn)]
        found.append(coco_sets()[0] | {"annotations.json": json.dumps(data | dict(annotations=changed)).encode()})
    huge = [dict(id=1, file_name="../outside/secret.png", height=12_000, width=12_000)]
    found.append(coco_sets()[0] | {"annotations.json": json.dumps(data | dict(images=huge)).encode()})
    return found


def onnx_run(nodes: list, constants: dict[str, np.ndarray], **more) -> Sample:
    """A run whose network is these nodes between `photo` and `grown`, and then gives what the card wants."""
    import onnx
    from onnx import helper

    model = toy_runs.toy_model()
    graph = model.graph
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    for i, node in enumerate(nodes):
        graph.node.insert(i, node)
    last = helper.make_node("ReduceMean", ["grown"], ["mean"], keepdims=0)
    graph.node.insert(len(nodes), last)
    graph.node.insert(len(nodes) + 1, helper.make_node("Mul", ["mean", "nothing"], ["none"]))
    graph.node[len(nodes) + 2].input[0] = "added"
    graph.node.insert(len(nodes) + 2, helper.make_node("Add", ["photo", "none"], ["added"]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    data = model.SerializeToString()
    return {"model.onnx": data, "card.json": card_text(toy_runs.toy_card(), {"model.onnx": data})}


def onnx_bombs() -> list[Sample]:
    """Networks that grow without end: by one large step, by doubling, by a loop."""
    import onnx
    from onnx import TensorProto, helper

    make, whole = helper.make_node, lambda *values: np.array(values, np.int64)
    scales = np.array((1, 2000, 2000, 1), np.float32)
    runs = [onnx_run([make("Resize", ["photo", "", "by"], ["grown"], mode="nearest")], dict(by=scales))]
    runs.append(onnx_run([make("Tile", ["photo", "by"], ["grown"])], dict(by=whole(1, 3000, 3000, 1))))
    ones = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    runs.append(onnx_run([make("ConstantOfShape", ["by"], ["grown"], value=ones)], dict(by=whole(10**6, 10**6))))
    runs.append(onnx_run([make("Expand", ["nothing", "by"], ["grown"])], dict(by=whole(1, 2**20, 2**20))))
    pads = whole(0, 10**5, 10**5, 0, 0, 10**5, 10**5, 0)
    runs.append(onnx_run([make("Pad", ["photo", "by"], ["grown"])], dict(by=pads)))
    doubling = [make("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=1) for i in range(40)]
    doubling[0].input[:], doubling[-1].output[0] = ["photo", "photo"], "grown"
    runs.append(onnx_run(doubling, {}))
    outer = [make("Reshape", ["photo", "tall"], ["column"]), make("Transpose", ["column"], ["row"])]
    runs.append(onnx_run([*outer, make("MatMul", ["column", "row"], ["grown"])], dict(tall=whole(-1, 1))))
    square = np.ones((2000, 2000), np.float32)
    work = [make("MatMul", ["square" if i == 0 else f"m{i}", "square"], [f"m{i + 1}"]) for i in range(3000)]
    work[-1].output[0] = "grown"
    runs.append(
        onnx_run([make("Add", ["nothing2", "wide"], ["square"]), *work], dict(wide=square, nothing2=square[:1]))
    )
    body = helper.make_graph(
        [make("Identity", ["going"], ["on"]), make("Concat", ["x", "x"], ["xx"], axis=1)], "body",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in
         (("i", TensorProto.INT64, []), ("going", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, None))],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in
         (("on", TensorProto.BOOL, []), ("xx", TensorProto.FLOAT, None))])  # fmt: skip
    endless = dict(count=np.array(2**62), true=np.array(True))
    runs.append(onnx_run([make("Loop", ["count", "true", "photo"], ["grown"], body=body)], endless))
    idle = onnx.GraphProto()
    idle.CopyFrom(body)
    idle.node[1].CopyFrom(make("Identity", ["x"], ["xx"]))
    runs.append(onnx_run([make("Loop", ["count", "true", "photo"], ["grown"], body=idle)], endless))
    return runs


def keras_bombs() -> list[Sample]:
    """Keras files that claim more than they hold, lead elsewhere or name code. Starts TensorFlow."""
    import h5py

    [sound] = keras_runs()
    with zipfile.ZipFile(io.BytesIO(sound["model.keras"])) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])

    def weights(change: Callable) -> bytes:
        stream = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(stream, "r+") as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            change(file, names)
        return stream.getvalue()

    def claim(file, names):
        del file[names[0]]
        file.create_dataset(names[0], (10**6, 10**5), "f4", chunks=(1000, 1000), compression="gzip")

    def lead_out(file, names):
        shape = file[names[0]].shape
        del file[names[0]]
        file.create_dataset(names[0], shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])

    def link_out(file, names):
        del file[names[0]]
        file[names[0]] = h5py.ExternalLink("/etc/hostname", "/x")

    def circle(file, names):
        group = names[0].rpartition("/")[0]
        del file[names[0]]
        file[names[0]] = h5py.SoftLink("/" + group)

    evil = {"module": "os", "class_name": "system", "config": {"command": "true"}, "registered_name": "os>system"}
    files = [parts | {"config.json": json.dumps(evil).encode()}]
    layers = config["config"]["layers"]
    layers[1] = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": evil}, "name": "x"}
    files.append(parts | {"config.json": json.dumps(config).encode()})
    files.append(parts | {"config.json": b'{"x": "' + b"9" * (1 << 26) + b'"}'})
    files += [parts | {"model.weights.h5": weights(change)} for change in (claim, lead_out, link_out, circle)]
    files.append(parts | {"model.weights.h5": bytes(1 << 26)})
    files.append(parts | {"../outside/evil.txt": b"evil", "/tmp/fuzz-evil.txt": b"evil"})
    found = []
    for one in files:
        data = zipped(one)
        card = toy_runs.toy_card(lesions=("exudates",), encoder="vgg16", width=0.0625, decoder="each")
        found.append({"model.keras": data, "card.json": card_text(card, {"model.keras": data})})
    huge = [dict(encoder="vgg16", width=4.0), dict(encoder="resnet50_cbam", width=4.0)]
    cards = [toy_runs.toy_card(lesions=("exudates",), **one) for one in huge]
    flat = dict(head=toy_runs.Head("flatten", 0.0, 8192), encoder="vgg16", width=4.0)
    cards.append(toy_runs.toy_card("classifier", **flat))
    data = sound["model.keras"]
    return [*found, *({"model.keras": data, "card.json": card_text(card, {"model.keras": data})} for card in cards)]


def npz_bombs() -> list[Sample]:
    """Arrays that claim terabytes, or hold gigabytes of zeros, or are objects."""
    head = b"\x93NUMPY\x01\x00"
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    claim = head + struct.pack("<H", len(text) + 1) + text + b"\n"
    zero = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2147483648,), }"
    many = head + struct.pack("<H", len(zero) + 1) + zero + b"\n" + bytes(1 << 23)
    thing = io.BytesIO()
    np.save(thing, np.array([{}], object), allow_pickle=True)
    sound = run_files()
    kinds = [dict.fromkeys(("names.npy", "counts.npy", "levels.npy", "digest.npy", "names_0.npy"), one)
             for one in (claim, many, thing.getvalue())]  # fmt: skip
    return [sound | {name: zipped(one) for name in ("histograms.npz", "signatures.npz")} for one in kinds]


def named_folders() -> list[Sample]:
    """Photographs by names that a disk allows and nobody expects."""
    names = ["x" * 251 + ".png", "眼" * 83 + ".png", "a\nb.png", "-rf.png", "$(touch evil).png", "'; touch evil;'.png"]
    names += ["<script>alert(1)</script>.png", "..png", "... .png", "%2e%2e%2fa.png", "con.png", "a\x1b[31m.png"]
    names += [
        "report.csv.png",
        "report.html.png",
        "\u202egnp.exe.png",
        os.fsdecode(b"caf\xe9\xff.png"),
        ".retinal_tl.png",
    ]
    names += ["/".join(["y" * 60] * 20) + "/a.png", "*?[a].png", "a/b/../../c.png".replace("..", "dots"), "{0}%s.png"]
    eyes = encoded("PNG")
    return [{name: eyes} for name in names] + [dict.fromkeys(names[:8], eyes)]
