"""What can be silently wrong about a photograph: each kind is put right, or said in one sentence."""

import io
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from retinal_tl.colors import _ADOBE, _matrix_profile
from retinal_tl.core import PhotoWarning, RetinalError
from retinal_tl.images import open_photo, photo_size, read_photo, sort_files
from retinal_tl.preprocess import find_field_of_view
from retinal_tl.quality import measure_quality, photo_warnings, ungradable_because
from retinal_tl.synthetic import phantom

EYE = phantom(4, size=560).photo
ADOBE = _matrix_profile("Adobe RGB (1998)", _ADOBE, 563 / 256)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SMALL = Image.fromarray(EYE).resize((140, 140))


def said(photo):
    return " ".join(photo_warnings(photo))


# ---- light


def test_a_second_eye_is_said_with_its_share():
    assert "elsewhere" not in said(EYE) and "outside" not in said(EYE)
    for pair in (np.hstack([EYE, EYE[:, ::-1]]), np.vstack([EYE, EYE])):
        assert "50 % of the lit ground lies outside" in said(pair)
    small = cv2.resize(EYE, (280, 280), interpolation=cv2.INTER_AREA)
    beside = np.hstack([EYE, np.pad(small, ((0, 280), (0, 0), (0, 0)))])
    assert "20 % of the lit ground" in said(beside) or "19 % of the lit ground" in said(beside)


def test_a_panel_is_lit_ground_and_a_date_is_none():
    wide = np.pad(EYE, ((0, 0), (0, 300), (0, 0)))
    dated = wide.copy()
    cv2.putText(dated, "2026-11-29", (600, 540), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (230, 230, 230), 2)
    assert "outside" not in said(dated)
    wide[40:300, 600:840] = (90, 90, 90)
    assert "of the lit ground lies outside" in said(wide)


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("width", [40, 90])
def test_a_field_half_in_the_dark_is_found_whole(turn, width):
    columns = np.mgrid[:560, :560][1]
    whole = find_field_of_view(EYE)
    shaded = np.uint8(EYE / (1 + np.exp(np.clip((columns - 330) * 4 / width, -50, 50)))[..., None])
    found = find_field_of_view(np.rot90(shaded, turn))
    center = np.array([found.center_x, found.center_y])
    assert np.abs(center - 279.5).max() < 12 and abs(found.radius / whole.radius - 1) < 0.03
    assert "Uneven light" in said(np.rot90(shaded, turn))


def test_black_bars_are_not_the_dark():
    barred = EYE.copy()
    barred[:60], barred[-60:] = 0, 0
    measured = measure_quality(barred)
    assert measured.shade == 0 and measured.inside < 0.95 and photo_warnings(barred) == []


def test_exchanged_colors():
    assert "red and blue seem to be exchanged" in said(EYE[..., ::-1])
    assert len(photo_warnings(EYE[..., ::-1])) == 1


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda photo: np.uint8(photo * 0.08), "too dark"),
        (lambda photo: np.uint8(np.minimum(photo * 5.0, 255)), "overexposed"),
        (lambda photo: np.uint8(np.where(photo.max(2, keepdims=True) > 25, photo * 0.05 + [120, 80, 50], 0)), "pale"),
        (lambda photo: cv2.GaussianBlur(photo, (0, 0), 14), "blurred"),
        (lambda photo: cv2.resize(photo, (150, 150), interpolation=cv2.INTER_AREA), "too small"),
        (lambda photo: photo[:, :220], "cut off"),
        (lambda photo: np.uint8(photo / (1 + np.exp((np.arange(560) - 170) / 25))[:, None]), "in the dark"),
    ],
)
def test_ungradable(change, word):
    reason = ungradable_because(measure_quality(change(EYE)))
    assert word in reason and f"Ungradable: {reason}." in photo_warnings(change(EYE))


def test_noise_does_not_hide_a_blur():
    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(EYE, (0, 0), 12) + rng.normal(0, 1.5, EYE.shape)
    assert "blurred" in ungradable_because(measure_quality(np.uint8(np.clip(blurred, 0, 255))))
    for mild in (EYE, cv2.GaussianBlur(EYE, (0, 0), 1), np.uint8(EYE * 0.5), EYE[40:-40]):
        assert ungradable_because(measure_quality(mild)) == ""


# ---- colors


@pytest.mark.parametrize(
    "format, options", [("JPEG", dict(quality=95)), ("PNG", {}), ("TIFF", {}), ("WEBP", dict(lossless=True))]
)
def test_profiles(tmp_path, format, options):
    path = tmp_path / "eye"
    meant = ImageCms.ImageCmsProfile(io.BytesIO(ADOBE))
    stored = ImageCms.profileToProfile(SMALL, ImageCms.createProfile("sRGB"), meant, outputMode="RGB")
    stored.save(path, format, icc_profile=ADOBE, **options)
    opened = open_photo(path)
    right = np.asarray(SMALL).astype(int)
    plain = np.asarray(stored).astype(int)
    assert opened.warnings == () and np.abs(opened.pixels - right).mean() < 2 < np.abs(plain - right).mean()
    SMALL.save(path, format, **options)
    bare = read_photo(path)
    SMALL.save(path, format, icc_profile=SRGB, **options)
    assert (read_photo(path) == bare).all()  # bit for bit
    SMALL.save(path, format, icc_profile=ADOBE[:200], **options)
    opened = open_photo(path)
    assert (opened.pixels == bare).all() and "damaged" in opened.warnings[0]


def test_a_profile_of_another_kind_is_named(tmp_path):
    SMALL.convert("CMYK").save(tmp_path / "inks.jpg", icc_profile=ADOBE)
    assert 'Its color profile "Adobe RGB (1998)" cannot be applied' in open_photo(tmp_path / "inks.jpg").warnings[0]
    SMALL.convert("L").save(tmp_path / "gray.jpg", icc_profile=ADOBE)
    assert open_photo(tmp_path / "gray.jpg").warnings == ()


@pytest.mark.parametrize("note", [{0xA001: 2}, {0xA001: 65535, 0xA005: {1: "R03"}}])
def test_adobe_rgb_by_its_note_alone(tmp_path, note):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(note)
    SMALL.save(tmp_path / "note.jpg", exif=exif, quality=95)
    SMALL.save(tmp_path / "profile.jpg", icc_profile=ADOBE, quality=95)
    SMALL.save(tmp_path / "plain.jpg", quality=95)
    note, profile, plain = (read_photo(tmp_path / f"{name}.jpg").astype(int) for name in ("note", "profile", "plain"))
    assert np.abs(note - profile).max() <= 1 and np.abs(note - plain).mean() > 2


# ---- bits


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_bits_in_use(tmp_path, bits, suffix, channels):
    values = np.array(SMALL).astype(np.uint16) << (bits - 8)
    values[0, 0] = (1 << bits) - 1
    path = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(path), values[..., ::-1] if channels == 3 else values[..., 0])
    opened = open_photo(path)
    right = np.array(SMALL)
    right[0, 0] = 255
    assert (opened.pixels == (right if channels == 3 else right[..., :1])).all()
    assert opened.warnings == (f"It uses {bits} of its 16 bits and was scaled by those.",)


def test_all_sixteen_bits_stay_as_they_are(tmp_path):
    dark = np.array(SMALL.convert("L")) // 5
    for factor in (256, 257):
        Image.fromarray(dark.astype(np.uint16) * factor).save(tmp_path / "deep.png")
        opened = open_photo(tmp_path / "deep.png")
        assert (opened.pixels == dark[..., None]).all() and opened.warnings == ()


# ---- kinds of files


@pytest.mark.parametrize(
    "format, suffix", [("WEBP", "webp"), ("JPEG2000", "jp2"), ("JPEG2000", "j2k"), ("AVIF", "avif")]
)
def test_newer_formats(tmp_path, format, suffix):
    path = tmp_path / f"eye.{suffix}"
    SMALL.save(path, format)
    assert np.abs(read_photo(path).astype(int) - np.asarray(SMALL)).mean() < 6 and photo_size(path) == (140, 140)
    assert sort_files(tmp_path) == ([path], {})
    with pytest.raises(RetinalError, match="pixels, and 100 in all"):
        read_photo(path, max_pixels=100)


def test_a_film_is_no_photograph(tmp_path):
    SMALL.save(tmp_path / "film.webp", save_all=True, append_images=[SMALL.rotate(90)], duration=100)
    with pytest.raises(RetinalError, match="holds 2 pages"):
        read_photo(tmp_path / "film.webp")


def test_heic(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(SMALL).save(tmp_path / "phone.heic", quality=95)
    assert np.abs(read_photo(tmp_path / "phone.heic").astype(int) - np.asarray(SMALL)).mean() < 6
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(RetinalError, match=r"pip install 'retinal_tl\[heic\]'"):
        read_photo(tmp_path / "phone.heic")


def test_what_is_not_supported_is_not_called_damaged(tmp_path):
    cv2.imwrite(str(tmp_path / "fractions.tif"), np.float32(EYE[:40, :40] / 255))
    Image.fromarray(np.float32(EYE[:40, :40, 0])).save(tmp_path / "gray.tif")
    for name in ("fractions.tif", "gray.tif"):
        with pytest.raises(RetinalError, match="numbers of a type that is not supported"):
            read_photo(tmp_path / name)
    SMALL.save(tmp_path / "plain.tif")
    content = (tmp_path / "plain.tif").read_bytes()
    for code, name in ((34712, "JPEG 2000"), (50002, "JPEG XL"), (40001, "number 40001")):
        tag = (259).to_bytes(2, "little") + b"\3\0\1\0\0\0"
        odd = content.replace(tag + b"\1\0", tag + code.to_bytes(2, "little"))
        (tmp_path / "odd.tif").write_bytes(odd)
        with pytest.raises(RetinalError, match=rf"compression \({name}\) is not supported"):
            read_photo(tmp_path / "odd.tif")


def test_sort_files(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "patient 2" / "left", outside):
        folder.mkdir(parents=True)
        SMALL.save(folder / "eye.jpg")
    SMALL.save(inside / "IM0001", "JPEG")
    SMALL.save(inside / "raw.nef", "TIFF")
    SMALL.save(inside / "half.jpg.part", "JPEG")
    for name, content in {
        "Thumbs.db": b"x",
        ".hidden.jpg": b"x",
        "a.txt": b"text",
        "none": b"",
        "web.jpg": b"<html>",
    }.items():
        (inside / name).write_bytes(content)
    (inside / "linked.jpg").symlink_to(outside / "eye.jpg")
    (inside / "away").symlink_to(outside)
    (inside / "round").symlink_to(inside)
    found, left = sort_files(inside)
    assert [path.relative_to(inside).as_posix() for path in found] == ["IM0001", "patient 2/left/eye.jpg", "web.jpg"]
    assert {path.name: reason for path, reason in left.items()} == {
        "a.txt": "text",
        "none": "empty",
        "raw.nef": "a TIFF file named .nef",
        "half.jpg.part": "an unfinished download",
        "linked.jpg": "a link that leads out of the folder",
        "away": "a link that leads out of the folder",
        "round": "a linked folder",
    }
    found, left = sort_files(inside, recursive=False)
    assert left[inside / "patient 2"] == "a folder" and len(found) == 2


# ---- who is told


def test_python_is_told(tmp_path):
    from retinal_tl.inference import _photo

    def segment(photo):
        return _photo(photo)

    Image.fromarray(EYE).save(tmp_path / "eye.png", icc_profile=ADOBE[:200])
    with pytest.warns(PhotoWarning) as caught:
        segment(tmp_path / "eye.png")
        segment(EYE[..., ::-1])
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert "eye.png: Its color profile" in str(caught[0].message) and "exchanged" in str(caught[1].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(EYE)
