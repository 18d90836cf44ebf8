"""Every kind of bad photograph and mask of the design: read as it should be, or turned away with one sentence."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from retinal_tl import images
from retinal_tl.core import LESION_COLORS, LESIONS, RetinalError, nearest, printable, write_text, writing
from retinal_tl.images import list_photos, photo_size, read_photo, read_small_photo, write_png
from retinal_tl.masks import read_mask

ROWS, COLUMNS = np.mgrid[:48, :64]
PHOTO = np.dstack([COLUMNS * 3, ROWS * 4, (ROWS + COLUMNS) // 2]).astype(np.uint8)
MASK = np.hypot(ROWS - 12, COLUMNS - 40) < 7


def sentence(path, read=read_photo, **options):
    "The message of the error that reading raises, checked for being one sentence that names the file."
    with pytest.raises(RetinalError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert printable(path) in message and message.isprintable() and message.endswith(".")
    assert len(message) < 200 + len(printable(path))
    return message


def encoded(format, image=PHOTO, **options):
    "A picture as the bytes of a file."
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
    return stream.getvalue()


# ---- what is no picture


def test_missing(tmp_path):
    assert "does not exist" in sentence(tmp_path / "none.jpg")
    (tmp_path / "broken link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert "does not exist" in sentence(tmp_path / "broken link.jpg")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "round.jpg")
    assert "could not be read: Too many levels" in sentence(tmp_path / "round.jpg")
    assert "could not be read: File name too long" in sentence(tmp_path / ("x" * 300 + ".jpg"))
    assert "does not exist" in sentence(tmp_path / "none.png", read_mask)
    sentence(str(tmp_path / "nul\0.jpg"))


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "locked.jpg"
    path.write_bytes(encoded("JPEG"))

    def refuse(*arguments):  # root, who often runs the tests, is never refused
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images, "open", refuse, raising=False)
    for read in (read_photo, read_mask, photo_size):
        assert "may not be read" in sentence(path, read)


def test_failing_disk(tmp_path, monkeypatch):
    path = tmp_path / "worn.jpg"
    path.write_bytes(encoded("JPEG"))

    def fail(*arguments):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(images, "open", fail, raising=False)
    assert "could not be read: Input/output error" in sentence(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_folder_and_pipe(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    assert "is a folder" in sentence(tmp_path / "folder.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    answers = []
    reading = threading.Thread(target=lambda: answers.append(sentence(tmp_path / "pipe.jpg")), daemon=True)
    reading.start()
    reading.join(20)
    assert answers and "device or a pipe" in answers[0]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", "is a web page"),
        (b"\xef\xbb\xbf  <HTML>", "is a web page"),
        (b"image,lesion\na.jpg,1\n", "is text"),
        ("übermüdet, keine Aufnahme".encode(), "is text"),
        (b"BMI,age\n21,45\n", "is text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is text"),
        (b"GIF89a" + bytes(20), "is a GIF picture"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "is a WebP picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC"),
        (b"%PDF-1.4 \xe2\xe3", "is a PDF"),
        (b"PK\3\4" + bytes(30), "is a ZIP"),
        (bytes(128) + b"DICM" + bytes(20), "is a DICOM file without a picture"),
        (bytes(1000), "is not a JPEG, PNG, TIFF or BMP"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"II*\0", "damaged"),
        (b"BM\0\0", "damaged"),
        (b"\xff", "damaged"),
    ],
)
def test_no_picture(tmp_path, content, says):
    path = tmp_path / "eye.jpg"
    path.write_bytes(content)
    for read in (read_photo, read_mask, photo_size):
        assert says in sentence(path, read)


def test_right_picture_wrong_suffix(tmp_path):
    for format in ("PNG", "BMP", "TIFF"):
        (tmp_path / "eye.jpg").write_bytes(encoded(format))
        assert (read_photo(tmp_path / "eye.jpg") == PHOTO).all()


# ---- damaged files

KINDS = dict(
    jpeg=("JPEG", {}),
    progressive=("JPEG", dict(progressive=True)),
    png=("PNG", {}),
    bmp=("BMP", {}),
    tiff=("TIFF", {}),
    lzw=("TIFF", dict(compression="tiff_lzw")),
    deflate=("TIFF", dict(compression="tiff_adobe_deflate")),
    jpeg_tiff=("TIFF", dict(compression="jpeg")),
)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated(tmp_path, kind, capfd, recwarn):
    format, options = KINDS[kind]
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    content = encoded(format, noise, **options)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(content)
    whole = read_photo(path)
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        assert "damaged" in sentence(path), share
        assert "damaged" in sentence(path, read_mask), share
        assert "damaged" in sentence(path, read_small_photo, side=10), share
    for missing in (1, 2, 8, 20):  # the very end of a file may be no pixels; what is read then has to be all of them
        path.write_bytes(content[:-missing])
        with contextlib.suppress(RetinalError):
            assert (read_photo(path) == whole).all()
    lines = capfd.readouterr().err.splitlines()
    printed = [line for line in lines if not line.startswith("JPEGLib")]  # libtiff prints that itself
    assert not printed and not recwarn.list


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes(tmp_path, kind, recwarn):
    format, options = KINDS[kind]
    content, rng, path = encoded(format, **options), np.random.default_rng(1), tmp_path / "flipped"
    for i in range(60):
        broken = bytearray(content)
        end = min(len(content), 300 if i % 2 else len(content))
        for place in rng.integers(0, end, 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        for read in (read_photo, read_mask, photo_size):
            with contextlib.suppress(RetinalError):
                read(path, max_pixels=1_000_000)
    assert not recwarn.list


def png_header(width, height):
    "The beginning of a PNG that claims a size, and no pixels."
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_too_large_is_refused_from_the_header(tmp_path):
    path = tmp_path / "huge.png"
    no_pixels = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path.write_bytes(png_header(100_000, 100_000) + no_pixels)
    for read in (read_photo, read_mask, photo_size):
        assert "100000 x 100000 pixels, and 150,000,000" in sentence(path, read)
    for format in ("JPEG", "PNG", "TIFF", "BMP"):
        path.write_bytes(encoded(format))
        assert "64 x 48 pixels, and 3,071 in all" in sentence(path, max_pixels=3071)
        assert read_photo(path, max_pixels=3072).shape == PHOTO.shape


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_pillows_own_limit_plays_no_part(tmp_path, monkeypatch, recwarn, format):
    path = tmp_path / "large"
    path.write_bytes(encoded(format))
    for limit in (2000, 1000):  # Pillow warns above its limit and raises above twice
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if format == "TIFF" and limit == 1000:
            assert "make it smaller" in sentence(path)
        else:
            assert (read_photo(path) == PHOTO).all()
        assert limit == Image.MAX_IMAGE_PIXELS and not recwarn.list


# ---- unusual pictures that are read


def test_one_pixel(tmp_path):
    for format in ("JPEG", "PNG", "TIFF", "BMP"):
        (tmp_path / "dot").write_bytes(encoded(format, np.full((1, 1, 3), 200, np.uint8)))
        assert read_photo(tmp_path / "dot").shape == (1, 1, 3) and photo_size(tmp_path / "dot") == (1, 1)
        assert read_mask(tmp_path / "dot").tolist() == [[True]]


@pytest.mark.parametrize("level", [0, 255])
def test_all_black_all_white(tmp_path, level):
    (tmp_path / "plain.png").write_bytes(encoded("PNG", np.full_like(PHOTO, level)))
    assert (read_photo(tmp_path / "plain.png") == level).all()


@pytest.mark.parametrize(
    "mode, format, options",
    [
        ("L", "JPEG", {}),
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("1", "PNG", {}),
        ("1", "TIFF", {}),
        ("1", "BMP", {}),
        ("P", "PNG", {}),
        ("P", "BMP", {}),
        ("P", "TIFF", {}),
        ("RGBA", "PNG", {}),
        ("RGBA", "TIFF", {}),
        ("CMYK", "JPEG", {}),
        ("CMYK", "TIFF", {}),
        ("YCbCr", "JPEG", {}),
        ("YCbCr", "TIFF", {}),
        ("RGB", "PNG", dict(transparency=(0, 0, 0))),
        ("P", "PNG", dict(transparency=b"\0\x80\xff")),
        ("L", "PNG", dict(transparency=0)),
    ],
)
def test_modes(tmp_path, recwarn, mode, format, options):
    image = Image.fromarray(PHOTO).convert(mode)
    path = tmp_path / "eye"
    path.write_bytes(encoded(format, image, **options))
    photo = read_photo(path)
    assert photo.dtype == np.uint8 and photo.shape == PHOTO.shape and photo.flags.c_contiguous and photo.flags.writeable
    shown = np.asarray(image.convert("RGB")).astype(int)
    limit = 40 if format == "JPEG" or mode == "YCbCr" else 1
    assert np.abs(photo - shown).mean() < 3 and np.abs(photo - shown).max() < limit
    assert not recwarn.list


def test_sixteen_bits_are_scaled_by_the_range_of_the_type(tmp_path):
    deep = PHOTO.astype(np.uint16) * 256 + 77
    for suffix in ("png", "tif"):
        cv2.imwrite(str(tmp_path / f"color.{suffix}"), deep[..., ::-1])
        assert (read_photo(tmp_path / f"color.{suffix}") == PHOTO).all()
        cv2.imwrite(str(tmp_path / f"gray.{suffix}"), deep[..., 0])
        assert (read_photo(tmp_path / f"gray.{suffix}") == PHOTO[..., :1]).all()
        assert read_photo(tmp_path / f"gray.{suffix}").dtype == np.uint8
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([deep[..., ::-1], deep[..., 0]]))
    assert (read_photo(tmp_path / "alpha.png") == PHOTO).all()
    Image.fromarray(deep[..., 0].astype(">u2")).save(tmp_path / "big_endian.tif")
    assert (read_photo(tmp_path / "big_endian.tif") == PHOTO[..., :1]).all()


def test_alpha_is_dropped(tmp_path):
    (tmp_path / "clear.png").write_bytes(encoded("PNG", np.dstack([PHOTO, np.zeros(MASK.shape, np.uint8)])))
    assert (read_photo(tmp_path / "clear.png") == PHOTO).all()


@pytest.mark.parametrize("mode, says", [("F", "32 bits"), ("I", "32 bits"), ("LAB", "LAB colors")])
def test_numbers_that_are_no_colors(tmp_path, mode, says):
    image = Image.new(mode, (8, 8)) if mode == "LAB" else Image.fromarray(PHOTO[..., 0]).convert(mode)
    (tmp_path / "odd.tif").write_bytes(encoded("TIFF", image))
    for read in (read_photo, read_mask):
        assert says in sentence(tmp_path / "odd.tif", read)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated(tmp_path, format, orientation):
    import PIL.ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "held"
    path.write_bytes(encoded(format, Image.fromarray(PHOTO), exif=exif))
    stored = Image.open(io.BytesIO(encoded(format)))
    marked = stored.copy()
    marked.getexif()[0x0112] = orientation
    right = np.asarray(PIL.ImageOps.exif_transpose(marked).convert("RGB"))
    assert (read_photo(path) == right).all() and photo_size(path) == right.shape[:2]
    assert (read_small_photo(path, 1000) == right).all()
    assert read_small_photo(path, 6).shape[0] * right.shape[1] == read_small_photo(path, 6).shape[1] * right.shape[0]
    mask = read_mask(path, right.shape)
    assert mask.shape == right.shape[:2] and (mask == (right.max(2) > right.max() // 2)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_small_jpegs(tmp_path, mode):
    """Decoded at 1, 1/2, 1/4 or 1/8 of the size: the smallest with no side shorter than was asked for."""
    large = cv2.resize(PHOTO, (640, 480), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded("JPEG", Image.fromarray(large).convert(mode), quality=95))
    for side, part in {481: 1, 480: 1, 241: 1, 240: 2, 121: 2, 120: 4, 61: 4, 60: 8, 1: 8}.items():
        small = read_small_photo(path, side)
        assert small.shape == (480 // part, 640 // part, 3) and small.dtype == np.uint8, side
        shrunk = cv2.resize(read_photo(path), None, fx=1 / part, fy=1 / part, interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - shrunk).mean() < 2, side
    assert "640 x 480" in sentence(path, read_small_photo, side=60, max_pixels=1000)  # refused by what is in the file


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_other_formats_come_at_their_full_size(tmp_path, format):
    (tmp_path / "eye").write_bytes(encoded(format))
    assert (read_small_photo(tmp_path / "eye", 8) == read_photo(tmp_path / "eye")).all()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0\0\0\0\0",
    ],
)
def test_damaged_exif_costs_nothing(tmp_path, recwarn, exif):
    (tmp_path / "eye.jpg").write_bytes(encoded("JPEG", exif=exif))
    assert read_photo(tmp_path / "eye.jpg").shape == PHOTO.shape and photo_size(tmp_path / "eye.jpg") == PHOTO.shape[:2]
    assert not recwarn.list


def test_pages(tmp_path):
    page, small = Image.fromarray(PHOTO), Image.fromarray(PHOTO).resize((16, 12))
    (tmp_path / "two.tif").write_bytes(encoded("TIFF", page, save_all=True, append_images=[small, page]))
    for read in (read_photo, read_mask, photo_size):
        assert "holds 2 pages" in sentence(tmp_path / "two.tif", read)
    (tmp_path / "four.tif").write_bytes(encoded("TIFF", page, save_all=True, append_images=[page] * 3))
    assert "holds 4 pages" in sentence(tmp_path / "four.tif")
    (tmp_path / "thumbnail.tif").write_bytes(encoded("TIFF", page, save_all=True, append_images=[small]))
    assert (read_photo(tmp_path / "thumbnail.tif") == PHOTO).all()
    (tmp_path / "thumbnail first.tif").write_bytes(encoded("TIFF", small, save_all=True, append_images=[page]))
    assert "holds 2 pages" in sentence(tmp_path / "thumbnail first.tif")


def test_pages_in_a_circle(tmp_path):
    content = bytearray(encoded("TIFF", PHOTO))
    start = struct.unpack_from("<I", content, 4)[0]
    struct.pack_into("<I", content, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], start)
    (tmp_path / "circle.tif").write_bytes(content)
    assert (read_photo(tmp_path / "circle.tif") == PHOTO).all()


def test_first_frame_of_a_camera_jpeg(tmp_path):
    second = Image.new("RGB", (64, 48), "white")
    content = encoded("MPO", Image.fromarray(PHOTO), save_all=True, append_images=[second], quality=95)
    (tmp_path / "mpo.jpg").write_bytes(content)
    assert Image.open(tmp_path / "mpo.jpg").format == "MPO"
    assert np.abs(read_photo(tmp_path / "mpo.jpg").astype(int) - PHOTO).mean() < 3


# ---- names

NAMES = [
    "left eye.png",
    'it\'s "quoted".png',
    "two\nlines\r.png",
    "眼底.png",
    "zażółć\u202e.png",
    "-rf.png",
    "x" * 251 + ".png",
    "a\\b%s{}.png",
    "\x1b[31mred.png",
    os.fsdecode(b"caf\xe9\xff.png"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names(tmp_path, name):
    path = tmp_path / name
    try:
        write_png(path, PHOTO)
    except RetinalError as error:
        if "Illegal byte" in str(error) or "Invalid argument" in str(error):
            pytest.skip("no such names on this disk")
        raise
    assert (read_photo(path) == PHOTO).all() and (read_photo(str(path)) == PHOTO).all()
    assert photo_size(path) == PHOTO.shape[:2]
    assert list_photos(tmp_path) == [path]
    path.write_bytes(b"")
    sentence(path).encode("utf-8")
    assert "\n" not in sentence(path) and "\x1b" not in sentence(path) and "\u202e" not in sentence(path)


def test_printable():
    assert printable("a\nb\tc\x00d\x7f") == r"a\nb\tc\x00d\x7f"
    assert printable(b"caf\xe9.png") == printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert printable("\ud800\U000e0001") == r"\ud800\U000e0001" and printable("") == "" and printable(7) == "7"
    for text in ("a\nb", "\ud800", "C:\\new", "眼"):
        assert printable(printable(text)) == printable(text)


def test_list_photos(tmp_path):
    for name in ["b.JPG", "a.Tiff", "c.bmp", "d.jpeg", "Thumbs.db", ".hidden.jpg", "._b.JPG", "notes.txt", "e.gif"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "f.png").touch()
    assert [path.name for path in list_photos(str(tmp_path))] == ["a.Tiff", "b.JPG", "c.bmp", "d.jpeg"]
    with pytest.raises(FileNotFoundError):
        list_photos(tmp_path / "none")


# ---- masks


def save_palette(path, *colors, indices=MASK, **options):
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([value for color in colors for value in color])
    image.save(path, **options)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize(
    "colors",
    [
        [(0, 0, 0), (255, 0, 0)],  # IDRiD
        [(0, 0, 0), (1, 1, 1)],
        [(0, 0, 0), (128, 0, 0)],
        [(68, 1, 84), (253, 231, 37)],
        [(0, 0, 255), (255, 255, 0)],  # both bright: the indices tell
        [(0, 0, 0), (0, 0, 0)],  # an empty palette: so too
        [(255, 255, 255), (255, 255, 255)],
    ],
    ids=str,
)
def test_palette_masks(tmp_path, colors, suffix):
    path = tmp_path / f"mask.{suffix}"
    save_palette(path, *colors)
    assert (read_mask(path, PHOTO.shape) == MASK).all()


def test_palettes_that_are_not_in_order(tmp_path):
    save_palette(tmp_path / "white_first.png", (255, 255, 255), (0, 0, 0), indices=~MASK)
    assert (read_mask(tmp_path / "white_first.png") == MASK).all()
    gray = Image.fromarray(cv2.GaussianBlur(MASK * np.uint8(255), (0, 0), 1)).convert("P")
    gray.save(tmp_path / "gray.png")
    assert np.count_nonzero(read_mask(tmp_path / "gray.png") != MASK) < 0.1 * MASK.sum()
    save_palette(tmp_path / "clear.png", (0, 0, 0), (255, 0, 0), transparency=0)
    assert (read_mask(tmp_path / "clear.png") == MASK).all()


@pytest.mark.parametrize(
    "dtype, value",
    [
        (np.uint8, 1),
        (np.uint8, 76),
        (np.uint8, 255),
        (np.uint16, 1),
        (np.uint16, 255),
        (np.uint16, 65535),
        (bool, True),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_two_values(tmp_path, dtype, value, suffix):
    Image.fromarray(MASK.astype(dtype) * dtype(value)).save(tmp_path / f"mask.{suffix}")
    mask = read_mask(tmp_path / f"mask.{suffix}", MASK.shape)
    assert mask.dtype == bool and (mask == MASK).all()


def test_rgba_mask_of_idrid(tmp_path):
    for color in [(255, 255, 255), (255, 0, 0), (1, 0, 0)]:
        pixels = np.dstack([MASK * np.uint8(value) for value in color] + [np.full(MASK.shape, 255, np.uint8)])
        (tmp_path / "IDRiD_81_EX.tif").write_bytes(encoded("TIFF", pixels))
        assert (read_mask(tmp_path / "IDRiD_81_EX.tif", PHOTO.shape) == MASK).all()
    empty = np.dstack([np.zeros_like(PHOTO), np.full(MASK.shape, 255, np.uint8)])
    (tmp_path / "empty.tif").write_bytes(encoded("TIFF", empty))
    assert not read_mask(tmp_path / "empty.tif").any()


def test_marks_in_the_transparency(tmp_path):
    for level in (0, 255):
        pixels = np.dstack([np.full_like(PHOTO, level), MASK * np.uint8(255)])
        (tmp_path / "clear.png").write_bytes(encoded("PNG", pixels))
        assert "transparency only" in sentence(tmp_path / "clear.png", read_mask)
        (tmp_path / "gray.png").write_bytes(encoded("PNG", pixels[..., 2:]))
        assert "transparency only" in sentence(tmp_path / "gray.png", read_mask)
    white = np.dstack([np.repeat(MASK[..., None] * np.uint8(255), 3, 2), MASK * np.uint8(255)])
    (tmp_path / "white.png").write_bytes(encoded("PNG", white))
    assert (read_mask(tmp_path / "white.png") == MASK).all()


def test_sixteen_bit_colors_are_no_mask(tmp_path):
    for suffix in ("png", "tif"):
        cv2.imwrite(str(tmp_path / f"deep.{suffix}"), np.repeat(MASK[..., None].astype(np.uint16), 3, 2))
        assert "16 bits" in sentence(tmp_path / f"deep.{suffix}", read_mask)


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_soft_edges(tmp_path, quality):
    gray = MASK * np.uint8(255)
    for name, image in [("gray", gray), ("red", np.dstack([gray, 0 * gray, 0 * gray]))]:
        (tmp_path / f"{name}.jpg").write_bytes(encoded("JPEG", cv2.GaussianBlur(image, (0, 0), 0.8), quality=quality))
        mask = read_mask(tmp_path / f"{name}.jpg", PHOTO.shape)
        assert abs(mask.sum() / MASK.sum() - 1) < 0.15 and (mask & MASK).sum() > 0.85 * MASK.sum(), name


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_empty_masks(tmp_path, format):
    for mode in ("L", "RGB", "1", "P"):
        if (mode, format) == ("P", "JPEG"):
            continue
        (tmp_path / "mask").write_bytes(encoded(format, Image.new(mode, (64, 48))))
        mask = read_mask(tmp_path / "mask", PHOTO.shape)
        assert mask.shape == MASK.shape and not mask.any()


def test_empty_palette_masks(tmp_path):
    for level, colors in [(0, [(0, 0, 0), (255, 0, 0)]), (1, [(255, 255, 255), (0, 0, 0)]), (0, [(0, 0, 0)] * 2)]:
        save_palette(tmp_path / "mask.png", *colors, indices=np.full((48, 64), level, np.uint8))
        assert not read_mask(tmp_path / "mask.png").any()


def test_full_masks(tmp_path):
    for mode, value in [("L", 255), ("L", 1), ("RGB", "white"), ("1", 1)]:
        Image.new(mode, (64, 48), value).save(tmp_path / "mask.png")
        assert read_mask(tmp_path / "mask.png").all()
    save_palette(tmp_path / "mask.png", (0, 0, 0), (255, 0, 0), indices=np.ones((48, 64), np.uint8))
    assert read_mask(tmp_path / "mask.png").all()


def test_mask_of_another_size(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    says = sentence(tmp_path / "mask.png", read_mask, shape=(100, 80, 3))
    assert "64 x 48" in says and "80 x 100" in says
    assert "64 x 48" in sentence(tmp_path / "mask.png", read_mask, shape=(64, 48))


def test_missing_mask(tmp_path):
    assert "does not exist" in sentence(tmp_path / "mask.png", read_mask, shape=(48, 64))


# ---- writing


def test_writing_moves_into_place(tmp_path):
    path = tmp_path / "new folder" / "note.txt"
    with writing(path) as temporary:
        temporary.write_text("done")
        assert temporary.parent == path.parent and temporary.suffix == ".txt" and temporary.name.startswith(".")
        assert not path.exists()
    assert path.read_text() == "done" and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    write_text(tmp_path / "note.txt", "old")
    with pytest.raises(error), writing(tmp_path / "note.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "note.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_sentence(tmp_path):
    says = "note.txt could not be written: No space left on device."
    with pytest.raises(RetinalError, match=says), writing(tmp_path / "note.txt"):
        raise OSError(28, "No space left on device")
    with pytest.raises(RetinalError, match="could not be written"), writing(tmp_path / "nothing.txt"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(RetinalError, match="folder could not be written"):
        write_text(tmp_path / "folder", "")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_names_of_255_bytes(tmp_path):
    for name in ["x" * 251 + ".png", "眼" * 83 + "x.csv", "." + "y" * 254]:
        assert len(os.fsencode(name)) == 255 and len(name) == 255 or "眼" in name
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_killed_while_writing(tmp_path):
    write_text(tmp_path / "note.txt", "old")
    script = (
        "import os, sys; from retinal_tl.core import writing\n"
        "with writing(sys.argv[1]) as temporary: temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "note.txt"])
    assert killed.returncode == -9 and (tmp_path / "note.txt").read_text() == "old" and list_photos(tmp_path) == []


def test_write_text_as_it_is(tmp_path):
    write_text(tmp_path / "table.csv", "photo,größe\r\ncaf\udce9,1\n")
    assert (tmp_path / "table.csv").read_bytes() == "photo,größe\r\ncaf\\udce9,1\n".encode()


@pytest.mark.parametrize("image", [PHOTO, PHOTO[..., 0], PHOTO[..., 0].astype(np.uint16) * 257, PHOTO[::2, ::-2]])
def test_write_png(tmp_path, image):
    write_png(tmp_path / "image.png", image)
    assert (np.asarray(Image.open(tmp_path / "image.png")) == image).all()


@pytest.mark.parametrize(
    "image",
    [MASK, PHOTO.astype(float), PHOTO[..., :2], PHOTO.astype(np.uint16), PHOTO[:0], np.dstack([PHOTO, PHOTO[..., :1]])],
)
def test_write_png_of_something_else(tmp_path, image):
    with pytest.raises(TypeError):
        write_png(tmp_path / "image.png", image)
    assert not list(tmp_path.iterdir())


def test_words():
    assert nearest("EXUDATES", LESIONS) == "exudates" and nearest("microaneurism", LESIONS) == "microaneurysms"
    assert nearest("", LESIONS) == ""
    assert nearest("x", []) == "" and set(LESION_COLORS) == set(LESIONS)


IDRID = Path(__file__).resolve().parents[2] / "shared/data/IDRiD"


@pytest.mark.skipif(not IDRID.is_dir(), reason="IDRiD is not on this machine")
def test_masks_of_idrid():
    paths = sorted(IDRID.glob("*/2*/*/[1-4]*/IDRiD_5*.tif"))
    assert len(paths) >= 15
    for path in paths:
        assert 0 < read_mask(path, (2848, 4288)).mean() < 0.3, path.name
