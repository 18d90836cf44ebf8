"""DICOM photographs: every encoding, every hostile header, and nothing of the patient in anything that is written."""

import json
import re
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from dicom_files import IDENTIFYING, OPHTHALMIC, SECRET, add_identity, as_jpeg, as_ybr, photo_dataset, write_dicom
from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.dicom import MAX_FRAMES, list_dicomdir, photo_frames
from retinal_tl.images import open_photo, photo_size, read_small_photo, sort_files
from retinal_tl.inference import load_run
from retinal_tl.writers import WRITERS
from toy_runs import write_toy_run

ROWS, COLUMNS = np.mgrid[:48, :64]
PHOTO = np.dstack([COLUMNS * 3, ROWS * 4, (ROWS + COLUMNS) // 2]).astype(np.uint8)
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def sentence(path, read=open_photo):
    "The message of the error that reading raises, checked for being one sentence that names the file and no patient."
    with pytest.raises(RetinalError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and message.isprintable() and message.endswith(".") and SECRET not in message
    assert len(message) < 220 + 2 * len(str(path))
    return message


# ---- encodings


def planar():
    dataset = photo_dataset(PHOTO, PlanarConfiguration=1)
    dataset.PixelData = PHOTO.transpose(2, 0, 1).tobytes()
    return dataset


def written_as(syntax):
    dataset = photo_dataset(PHOTO)
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def compressed(syntax, **options):
    dataset = photo_dataset(PHOTO)
    dataset.compress(syntax, generate_instance_uid=False, **options)
    return dataset


def high_throughput(syntax, file, colors):
    dataset = photo_dataset(PHOTO, PhotometricInterpretation=colors)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([(Path(__file__).parent / "htj2k" / file).read_bytes()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def sixteen(stored):
    dataset = photo_dataset((PHOTO.astype(np.uint16) << (stored - 8)) | (PHOTO >> (16 - stored)))
    dataset.BitsStored, dataset.HighBit = stored, stored - 1
    dataset.SOPClassUID = uid.OphthalmicPhotography16BitImageStorage
    return dataset


def ybr_422():
    dataset = as_ybr(photo_dataset(PHOTO))
    full = np.frombuffer(dataset.PixelData, np.uint8).reshape(-1, 2, 3).astype(int)
    chroma = full[:, :, 1:].mean(1).round()
    dataset.PixelData = np.concatenate([full[:, :, 0], chroma], axis=1).astype(np.uint8).tobytes()
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    return dataset


ENCODINGS = {
    "as it is": (lambda: photo_dataset(PHOTO), 0),
    "planes of colors": (planar, 0),
    "big endian": (lambda: written_as(uid.ExplicitVRBigEndian), 0),
    "implicit": (lambda: written_as(uid.ImplicitVRLittleEndian), 0),
    "deflated": (lambda: written_as(uid.DeflatedExplicitVRLittleEndian), 0),
    "YBR": (lambda: as_ybr(photo_dataset(PHOTO)), 1),
    "YBR 4:2:2": (ybr_422, 5),
    "RLE": (lambda: compressed(uid.RLELossless), 0),
    "JPEG-LS": (lambda: compressed(uid.JPEGLSLossless), 0),
    "JPEG-LS, near lossless": (lambda: compressed(uid.JPEGLSNearLossless, jls_error=2), 2),
    "JPEG 2000, lossless": (lambda: compressed(uid.JPEG2000Lossless), 0),
    "JPEG 2000": (lambda: compressed(uid.JPEG2000, j2k_cr=[4]), 12),
    "HTJ2K, lossless": (lambda: high_throughput(uid.HTJ2KLossless, "lossless.j2c", "YBR_RCT"), 0),
    "HTJ2K, RPCL": (lambda: high_throughput(uid.HTJ2KLosslessRPCL, "lossless.j2c", "YBR_RCT"), 0),
    "HTJ2K": (lambda: high_throughput(uid.HTJ2K, "lossy.j2c", "YBR_ICT"), 2),
    "JPEG": (lambda: as_jpeg(photo_dataset(PHOTO)), 12),
    "JPEG, all colors": (lambda: as_jpeg(photo_dataset(PHOTO), subsampling=0), 12),
    "10 of 16 bits": (lambda: sixteen(10), 0),
    "12 of 16 bits": (lambda: sixteen(12), 0),
    "16 bits": (lambda: sixteen(16), 0),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(name, tmp_path):
    make, off = ENCODINGS[name]
    path = write_dicom(tmp_path / "eye", make())
    photograph = open_photo(path)
    assert photograph.pixels.dtype == np.uint8 and photograph.pixels.shape == PHOTO.shape == (*photo_size(path), 3)
    assert np.abs(photograph.pixels.astype(int) - PHOTO).max() <= off and photograph.warnings == ()
    assert (photograph.modality, photograph.laterality, photograph.spacing) == ("OP", "", None)
    assert np.array_equal(read_small_photo(path, 16), photograph.pixels)


def test_jpeg_that_is_called_rgb(tmp_path):
    dataset = as_jpeg(photo_dataset(PHOTO))
    dataset.PhotometricInterpretation = "RGB"  # its JFIF mark says otherwise
    pixels = open_photo(write_dicom(tmp_path / "eye", dataset)).pixels
    assert np.abs(pixels.astype(int) - PHOTO).max() <= 12


def test_no_preamble(tmp_path):
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        whole = write_dicom(tmp_path / "whole", written_as(syntax)).read_bytes()
        start = whole.index(b"\x08\0\x16\0")
        (tmp_path / "bare").write_bytes(whole[start:])
        assert np.array_equal(open_photo(tmp_path / "bare").pixels, PHOTO)


def test_palette(tmp_path):
    index = (COLUMNS // 2 + ROWS // 2).astype(np.uint8)
    for bits in (8, 16):
        dataset = photo_dataset(index, PhotometricInterpretation="PALETTE COLOR")
        for i, color in enumerate(("Red", "Green", "Blue")):
            table = np.arange(256) * (i + 1) % 256
            setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [256, 0, bits])
            data = table.astype(np.uint8) if bits == 8 else (table * 257).astype("<u2")
            setattr(dataset, f"{color}PaletteColorLookupTableData", data.tobytes())
        pixels = open_photo(write_dicom(tmp_path / "eye", dataset)).pixels
        assert np.array_equal(pixels, np.dstack([index.astype(int) * (i + 1) % 256 for i in range(3)]))


def test_gray(tmp_path):
    gray = (COLUMNS * 4 + ROWS % 4).astype(np.uint8)

    def read(dataset):
        return open_photo(write_dicom(tmp_path / "eye", dataset)).pixels[..., 1].astype(int)

    assert np.array_equal(read(photo_dataset(gray)), gray)
    assert np.array_equal(read(photo_dataset(gray, PhotometricInterpretation="MONOCHROME1")), 255 - gray.astype(int))
    twelve = photo_dataset(gray.astype(np.uint16) * 16, BitsStored=12, HighBit=11)
    assert np.abs(read(twelve) - gray).max() <= 1
    window = read(photo_dataset(gray, WindowCenter=128, WindowWidth=64))
    assert window[gray < 90].max() == 0 and window[gray > 165].min() == 255 and 100 < window[gray == 128].mean() < 156
    rescaled = photo_dataset(gray, RescaleSlope=2, RescaleIntercept=-100, RescaleType="US")
    assert np.array_equal(read(rescaled), gray)
    signed = photo_dataset((gray.astype(np.int16) - 128) * 256, PixelRepresentation=1)
    assert np.abs(read(signed) - gray).max() <= 1


@pytest.mark.parametrize(
    "name, mean",
    [
        ("SC_rgb_jpeg_gdcm.dcm", 127.7),  # JPEG lossless
        ("GDCMJ2K_TextGBR.dcm", 124.4),  # YBR_RCT
        ("SC_jpeg_no_color_transform.dcm", 244.0),  # JPEG of RGB
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", 127.7),
        ("SC_rgb_jls_lossy_line.dcm", 128.0),
        ("SC_rgb_rle_16bit.dcm", 127.7),
        ("SC_ybr_full_422_uncompressed.dcm", 127.7),
        ("image_dfl.dcm", 127.1),
        ("SC_rgb_small_odd_big_endian.dcm", 128.8),
    ],
)
def test_files_of_other_programs(name, mean):
    assert abs(open_photo(BUNDLED / name).pixels.mean() - mean) < 0.1


def test_lossless_jpeg_under_its_older_name(tmp_path):
    dataset = pydicom.dcmread(BUNDLED / "SC_rgb_jpeg_gdcm.dcm")
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLossless  # any predictor, where the file says the first
    expected = open_photo(BUNDLED / "SC_rgb_jpeg_gdcm.dcm").pixels
    assert np.array_equal(open_photo(write_dicom(tmp_path / "eye", dataset)).pixels, expected)


def test_color_profiles_are_applied(tmp_path):
    damaged = open_photo(write_dicom(tmp_path / "eye", photo_dataset(PHOTO, ICCProfile=b"profile ")))
    assert "color profile is damaged" in damaged.warnings[0] and np.array_equal(damaged.pixels, PHOTO)
    profile = (BUNDLED / "crayons.icc").read_bytes()
    shown = open_photo(write_dicom(tmp_path / "eye", photo_dataset(PHOTO, ICCProfile=profile)))
    Image.fromarray(PHOTO).save(tmp_path / "eye.png", icc_profile=profile)
    same = open_photo(tmp_path / "eye.png")
    assert np.array_equal(shown.pixels, same.pixels) and shown.warnings == same.warnings


def test_twelve_bits_of_jpeg(tmp_path):
    dataset = pydicom.dcmread(BUNDLED / "JPGExtended.dcm")
    dataset.SOPClassUID, dataset.Modality = OPHTHALMIC, "OP"
    dataset.file_meta.MediaStorageSOPClassUID = OPHTHALMIC
    pixels = open_photo(write_dicom(tmp_path / "eye", dataset)).pixels[..., 0]
    assert np.abs(pixels.astype(int) - dataset.pixel_array * (255 / 4095)).max() <= 1 and pixels.max() == 16


# ---- what the file says


def test_eye_and_spacing(tmp_path):
    def opened(**attributes):
        return open_photo(write_dicom(tmp_path / "eye", photo_dataset(PHOTO, **attributes)))

    assert opened(ImageLaterality="R", PixelSpacing=[0.1, 0.2]).spacing == (0.1, 0.2)
    assert opened(Laterality="L").laterality == "left" and opened(ImageLaterality="R").laterality == "right"
    assert "both eyes" in opened(ImageLaterality="B").warnings[0]
    assert "left eye in one place and right" in opened(ImageLaterality="R", Laterality="L").warnings[0]
    for key in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        scanned = opened(**{key: [0.1, 0.1]})
        assert scanned.spacing is None and key in scanned.warnings[0]
    for odd in ([9, 9], [0, 0.1], [0.0001, 0.0001], [-0.1, 0.1]):
        assert opened(PixelSpacing=odd).spacing is None and "mm wide" in opened(PixelSpacing=odd).warnings[0]
    assert "burnt" in opened(BurnedInAnnotation="YES").warnings[0]
    assert "contrast agent" in opened(ContrastBolusAgent="Fluorescein").warnings[0]


def test_each_frame_speaks_for_itself(tmp_path):
    dataset = photo_dataset(np.stack([PHOTO, PHOTO[::-1]]))
    groups = []
    for side, spacing in (("L", 0.1), ("R", 0.2)):
        anatomy, measures, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        anatomy.FrameLaterality, measures.PixelSpacing = side, [spacing, spacing]
        group.FrameAnatomySequence, group.PixelMeasuresSequence = [anatomy], [measures]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    path = write_dicom(tmp_path / "visit.dcm", dataset)
    first, second = map(open_photo, photo_frames(path))
    assert (first.laterality, first.spacing) == ("left", (0.1, 0.1))
    assert (second.laterality, second.spacing) == ("right", (0.2, 0.2))
    assert np.array_equal(first.pixels, PHOTO) and np.array_equal(second.pixels, PHOTO[::-1])
    assert "name the one that is meant, such as" in sentence(path)
    assert "its file holds 2 photographs" in sentence(tmp_path / "visit.dcm#3")
    assert "does not exist" in sentence(tmp_path / "none.dcm#1")
    Image.fromarray(PHOTO).save(tmp_path / "eye.png")
    assert "does not exist" in sentence(tmp_path / "eye.png#1")


# ---- what is no photograph


@pytest.mark.parametrize(
    "attributes, words",
    [
        (dict(SOPClassUID=uid.OphthalmicTomographyImageStorage), "Ophthalmic Tomography"),
        (dict(SOPClassUID=uid.CTImageStorage), "CT Image Storage"),
        (dict(SOPClassUID=uid.EncapsulatedPDFStorage), "Encapsulated PDF"),
        (dict(SOPClassUID=uid.BasicTextSRStorage), "Basic Text SR"),
        (dict(SOPClassUID="1.2.3.4.5"), "1.2.3.4.5"),
        (dict(Modality="OPT"), "modality OPT"),
        (dict(Modality="OPT", SOPClassUID=uid.SecondaryCaptureImageStorage), "modality OPT"),
        (dict(BitsAllocated=32), "8 or 16 bits"),
        (dict(BitsAllocated=1), "8 or 16 bits"),
        (dict(Rows=0), "without a picture"),
        (dict(PhotometricInterpretation="HSV"), "is in HSV colors"),
        (dict(NumberOfFrames=10_000), f"10,000 photographs, and {MAX_FRAMES:,}"),
        (dict(NumberOfFrames=900), "900 photographs: name"),
        (dict(NumberOfFrames=-3), "-3 photographs"),
        (dict(Rows=60_000), "too short"),
        (dict(Rows=60_000, Columns=60_000), "too short"),
    ],
)
def test_turned_away(attributes, words, tmp_path):
    path = write_dicom(tmp_path / "eye.dcm", add_identity(photo_dataset(PHOTO, **attributes)))
    assert words in sentence(path) and words in sentence(path, photo_size)


def test_too_large(tmp_path):
    path = write_dicom(tmp_path / "eye.dcm", photo_dataset(PHOTO))
    assert "are allowed" in sentence(path, lambda path: open_photo(path, max_pixels=48 * 64 - 1))


def test_sizes_that_disagree(tmp_path):
    for make in (
        lambda: compressed(uid.JPEG2000Lossless),
        lambda: compressed(uid.JPEGLSLossless),
        ENCODINGS["JPEG"][0],
    ):
        dataset = make()
        dataset.Rows = 40
        assert "64 x 40 pixels of 3 samples, and its picture has 64 x 48 pixels" in sentence(
            write_dicom(tmp_path / "eye", dataset)
        )
    stream = compressed(uid.JPEG2000Lossless)
    begin = stream.PixelData.index(b"\xff\x4f\xff\x51")
    size = (50_000).to_bytes(4, "big") * 2  # a few hundred bytes that ask for 7.5 GB
    stream.PixelData = stream.PixelData[: begin + 8] + size + stream.PixelData[begin + 16 :]
    assert "its picture has 50000 x 50000" in sentence(write_dicom(tmp_path / "eye", stream))
    stream = compressed(uid.JPEG2000Lossless)
    begin = stream.PixelData.index(b"\xff\x4f\xff\x51") + 40
    stream.PixelData = stream.PixelData[:begin] + (16_000).to_bytes(2, "big") + stream.PixelData[begin + 2 :]
    assert "of 16000" in sentence(write_dicom(tmp_path / "eye", stream))


def test_fewer_frames_than_claimed(tmp_path):
    path = write_dicom(tmp_path / "eye", as_jpeg(photo_dataset(np.stack([PHOTO, PHOTO]))))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 3
    write_dicom(path, dataset)
    assert "fewer photographs" in sentence(f"{path}#1")


def test_deflated_bomb(tmp_path):
    dataset = written_as(uid.DeflatedExplicitVRLittleEndian)
    raw = write_dicom(tmp_path / "eye", dataset).read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = zlib.decompress(raw[start:], -zlib.MAX_WBITS)
    pixels = plain.index(b"\xe0\x7f\x10\0")
    bomb = packer.compress(plain[:pixels])
    for _ in range(60):
        bomb += packer.compress(bytes(1 << 20))  # 60 MB of nothing in 60 KB
    (tmp_path / "bomb").write_bytes(raw[:start] + bomb + packer.flush())
    tracemalloc.start()
    sentence(tmp_path / "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_damage_is_one_sentence(tmp_path):
    """Whatever byte is changed or missing: pixels of the right size, or one sentence without the patient."""
    random = np.random.default_rng(5)
    path = tmp_path / "eye.dcm"
    whole = [
        write_dicom(path, add_identity(make())).read_bytes()
        for make in (lambda: photo_dataset(PHOTO), ENCODINGS["JPEG"][0], lambda: compressed(uid.RLELossless))
    ]
    refused = 0
    for i in range(240):
        raw = bytearray(whole[i % 3])
        if i % 4:
            for place in random.integers(0, len(raw), 3):
                raw[place] = random.integers(256)
        else:
            raw = raw[: random.integers(1, len(raw))]
        path.write_bytes(raw)
        try:
            assert open_photo(path).pixels.ndim == 3
        except RetinalError as error:
            refused += 1
            assert SECRET not in str(error) and str(path) in str(error)
    assert refused > 60


def test_nothing_is_printed(tmp_path, capfd):
    dataset = add_identity(photo_dataset(PHOTO))
    path = write_dicom(tmp_path / "eye.dcm", dataset)
    raw = path.read_bytes().replace(b"19010203", b"ZZTOP birth"[:8])  # no date: pydicom warns, with the value
    path.write_bytes(raw)
    open_photo(path)
    path.write_bytes(raw[:700])
    sentence(path)
    assert SECRET not in "".join(capfd.readouterr())


def test_without_pydicom(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "eye.dcm", photo_dataset(PHOTO))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'retinal_tl[dicom]'" in sentence(path)
    assert photo_frames(path) == [path]


def test_compression_without_a_decoder(tmp_path):
    dataset = compressed(uid.JPEG2000Lossless)
    dataset.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    assert "which cannot be read" in sentence(write_dicom(tmp_path / "film", dataset))


# ---- folders


def test_folder(tmp_path):
    write_dicom(tmp_path / "IM000001", photo_dataset(PHOTO))
    (tmp_path / "PAT1").mkdir()
    write_dicom(tmp_path / "PAT1" / "OP1", photo_dataset(PHOTO))
    write_dicom(tmp_path / "PAT1" / "ct", photo_dataset(PHOTO, SOPClassUID=uid.CTImageStorage))
    dataset = pydicom.dcmread(tmp_path / "PAT1" / "ct")
    dataset.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    write_dicom(tmp_path / "PAT1" / "ct", dataset)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.MediaStorageDirectoryStorage
    record = pydicom.Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["PAT1", "OP1"]
    dataset.DirectoryRecordSequence = [record]
    write_dicom(tmp_path / "DICOMDIR", dataset)
    photos, left = sort_files(tmp_path)
    assert [path.name for path in photos] == ["IM000001", "OP1"]
    assert left[tmp_path / "DICOMDIR"] == "the list of a DICOM folder"
    assert left[tmp_path / "PAT1" / "ct"] == "a DICOM file that is no photograph"
    assert list_dicomdir(tmp_path / "DICOMDIR") == [tmp_path / "PAT1" / "OP1"]
    assert sort_files(tmp_path, recursive=False)[0] == [tmp_path / "IM000001"]


# ---- what is written


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """Findings in a DICOM photograph that is full of names, and its data set."""
    from retinal_tl.findings import find_lesions, masks_at
    from retinal_tl.synthetic import phantom

    folder = tmp_path_factory.mktemp("dicom")
    eye = phantom(5, 400, LESIONS)
    dataset = add_identity(photo_dataset(eye.photo, ImageLaterality="L", PixelSpacing=[0.02, 0.02]))
    path = write_dicom(folder / "eye.dcm", dataset)
    runs = [load_run(write_toy_run(folder / lesion, lesions=lesion)) for lesion in LESIONS[:2]]
    found = find_lesions(path, runs)
    return found, masks_at(found, found.thresholds), dataset


def test_no_patient_in_any_file(findings, tmp_path):
    from retinal_tl.findings import lesion_rows, report_text, write_findings

    found, masks, dataset = findings
    for overlay in ("jpeg", "png"):
        write_findings(tmp_path / "eye", found, masks, found.thresholds, tuple(WRITERS), overlay)
    rows = lesion_rows(found, masks, found.thresholds)
    (tmp_path / "report.csv").write_text(report_text(list(rows[0]), rows))
    written = sorted(tmp_path.iterdir())
    assert {path.suffix for path in written} >= {".png", ".jpg", ".npz", ".geojson", ".json", ".dcm", ".csv"}
    told = [value.encode() for value in map(str, IDENTIFYING.values()) if len(value) > 4] + [SECRET.encode()]
    for path in written:
        raw = path.read_bytes()
        for chunk in (raw, zlib_parts(raw)):
            assert not [value for value in told if value in chunk], path.name
    assert dataset.SOPInstanceUID.encode() in (tmp_path / "eye_seg.dcm").read_bytes()


def zlib_parts(raw):
    "What is deflated inside of a file of a PNG or an npz, as far as it can be found."
    parts = b""
    for place in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", raw):
        try:
            parts += zlib.decompressobj().decompress(raw[place.start() :], 1 << 16)
        except zlib.error:
            continue
    return parts


def test_ids_are_kept_when_asked_for(findings, tmp_path):
    from retinal_tl.findings import write_findings

    found, masks, dataset = findings
    write_findings(tmp_path / "eye", found, masks, found.thresholds, ("dicom-seg", "coco"), "none", keep_ids=True)
    kept = pydicom.dcmread(tmp_path / "eye_seg.dcm")
    for key in ("PatientName", "PatientID", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert kept[key].value == dataset[key].value
    reference = kept.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == dataset.SeriesInstanceUID
    assert reference.ReferencedInstanceSequence[0].ReferencedSOPClassUID == OPHTHALMIC
    assert SECRET not in (tmp_path / "eye_coco.json").read_text()


def test_segmentation_says_which_model_and_photograph(findings, tmp_path):
    from retinal_tl.dicom_seg import write_dicom_seg

    found, masks, _ = findings
    write_dicom_seg(tmp_path / "eye", found, masks, found.thresholds)
    written = pydicom.dcmread(tmp_path / "eye_seg.dcm")
    [algorithm] = written.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == found.models["exudates"]
    [measures] = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert list(measures.PixelSpacing) == [0.02, 0.02]
    assert "1.2.840.10008.5.1.4.1.1.7" not in [element.value for element in written.iterall()]


def test_segmentation_of_one_frame(findings, tmp_path):
    from dataclasses import replace

    from retinal_tl.dicom_seg import dicom_seg

    found, masks, _ = findings
    visit = photo_dataset(np.stack([found.photo, found.photo]), ImageLaterality="L")
    path = write_dicom(tmp_path / "visit.dcm", visit)
    segmentation = dicom_seg(replace(found, path=Path(f"{path}#2"), spacing=None), masks)
    images = [
        image
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for image in group.DerivationImageSequence[0].SourceImageSequence
    ]
    assert {(image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber) for image in images} == {
        (visit.SOPInstanceUID, 2)
    }
    segmentation.save_as(tmp_path / "seg.dcm")
    assert not open_errors(tmp_path / "seg.dcm")


def open_errors(path):
    "What dciodvfy has against a DICOM file; nothing where it is not installed."
    if not shutil.which("dciodvfy"):
        return []
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60)
    told = (done.stdout + done.stderr).splitlines()
    assert any(line == "Segmentation" for line in told), told
    return [line for line in told if line.startswith("Error") or "not present in standard" in line]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools is not installed")
@pytest.mark.parametrize("keep_ids", [False, True])
def test_segmentation_is_valid(findings, tmp_path, keep_ids):
    from retinal_tl.dicom_seg import dicom_seg

    found, masks, _ = findings
    dicom_seg(found, masks, keep_ids).save_as(tmp_path / "seg.dcm")
    assert open_errors(tmp_path / "seg.dcm") == []


def test_coco_names_the_file_and_nobody(findings, tmp_path):
    from retinal_tl.annotations import join_coco_files, write_coco

    found, masks, _ = findings
    write_coco(tmp_path / "eye", found, masks, found.thresholds)
    join_coco_files([tmp_path / "eye_coco.json"], tmp_path / "annotations.json")
    text = (tmp_path / "annotations.json").read_text()
    joined = json.loads(text)
    assert joined["images"][0]["file_name"] == "eye.dcm" and len(joined["annotations"]) > 1 and SECRET not in text


def test_a_file_full_of_nothing(tmp_path):
    whole = write_dicom(tmp_path / "whole", photo_dataset(PHOTO)).read_bytes()
    start = whole.index(b"\x08\0\x16\0")
    for filling in (b"\0" * 8, b"\2\0\x02\1LO\0\0", b"\x09\0\x10\0LO\0\0"):  # read to the end, each takes minutes
        for begin in (bytes(128) + b"DICM", whole[:start]):
            (tmp_path / "nothing").write_bytes(begin + filling * 3_000_000)
            sentence(tmp_path / "nothing")


# ---- the command


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A hospital's export: a photograph without a suffix, a visit of two, a CT, a DICOMDIR; and a toy run beside it."""
    from retinal_tl.synthetic import phantom

    top = tmp_path_factory.mktemp("clinic")
    (top / "export" / "PAT1").mkdir(parents=True)
    photo = phantom(5, 256, LESIONS).photo
    write_dicom(top / "export" / "IM000001", add_identity(photo_dataset(photo, ImageLaterality="L")))
    visit = add_identity(as_jpeg(photo_dataset(np.stack([photo, photo[:, ::-1]]))))
    write_dicom(top / "export" / "PAT1" / "VISIT", visit)
    scan = photo_dataset(photo, SOPClassUID=uid.CTImageStorage)
    scan.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    write_dicom(top / "export" / "PAT1" / "CT", scan)
    scan.file_meta.MediaStorageSOPClassUID = scan.SOPClassUID = uid.MediaStorageDirectoryStorage
    scan.DirectoryRecordSequence = [pydicom.Dataset() for _ in range(3)]
    for record, parts in zip(scan.DirectoryRecordSequence, (["PAT1", "VISIT"], ["PAT1", "CT"], ["PAT1", "GONE"])):
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
    write_dicom(top / "export" / "DICOMDIR", scan)
    write_toy_run(top / "run", lesions="exudates")
    return top


def command(clinic, photos, output, *options):
    from retinal_tl.command import main

    return main(["segment", *photos, "--model", str(clinic / "run"), "--output", str(output), *options])


def test_an_export_becomes_results_without_a_name(clinic, tmp_path, capfd):
    every = ",".join(WRITERS)
    assert command(clinic, [str(clinic / "export")], tmp_path / "out", "--format", every) == 0
    told = "".join(capfd.readouterr())
    assert "a DICOM file that is no photograph: " in told and "the list of a DICOM folder: " in told
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert {"IM000001_seg.dcm", "PAT1/VISIT_1_seg.dcm", "PAT1/VISIT_2_coco.json", "annotations.json"} <= written
    joined = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [image["file_name"] for image in joined["images"]] == ["IM000001", "PAT1/VISIT#1", "PAT1/VISIT#2"]
    assert {one["image_id"] for one in joined["annotations"]} == {1, 2, 3}
    assert SECRET not in told
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert SECRET.encode() not in raw and b"777000" not in raw and b"19010203" not in raw, path
    frames = [pydicom.dcmread(tmp_path / "out" / "PAT1" / f"VISIT_{i}_seg.dcm") for i in (1, 2)]
    first = [each.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0] for each in frames]
    assert [each.SourceImageSequence[0].ReferencedFrameNumber for each in first] == [1, 2]


def test_a_second_start_does_nothing_again(clinic, tmp_path):
    found = []
    for _ in range(2):
        assert command(clinic, [str(clinic / "export")], tmp_path / "out", "--format", "dicom-seg") == 0
        written = sorted((tmp_path / "out").rglob("*_seg.dcm"))
        found.append([pydicom.dcmread(path).SOPInstanceUID for path in written])
    assert len(found[0]) == 3 and found[0] == found[1]  # a new segmentation would have a new number


def test_a_dicomdir_stands_for_what_it_lists(clinic, tmp_path, capfd):
    assert command(clinic, [str(clinic / "export" / "DICOMDIR")], tmp_path / "out", "--format", "geojson") == 0
    told = "".join(capfd.readouterr())
    assert "listed, and not there: " in told and "a DICOM file that is no photograph: " in told
    assert sorted(path.name for path in (tmp_path / "out" / "PAT1").iterdir()) == ["VISIT_1.geojson", "VISIT_2.geojson"]


def test_one_of_several(clinic, tmp_path):
    assert command(clinic, [str(clinic / "export" / "PAT1" / "VISIT#2")], tmp_path, "--format", "npz") == 0
    assert (tmp_path / "VISIT_2.npz").is_file() and not (tmp_path / "VISIT_1.npz").exists()


def test_a_segmentation_needs_a_dicom_photograph(clinic, tmp_path, capfd):
    Image.fromarray(open_photo(clinic / "export" / "IM000001").pixels).save(tmp_path / "eye.png")
    assert command(clinic, [str(tmp_path / "eye.png")], tmp_path / "out", "--format", "dicom-seg") == 1
    assert "eye.png is no DICOM photograph, and a DICOM SEG refers to one" in capfd.readouterr().err


def test_without_highdicom(clinic, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert command(clinic, [str(clinic / "export" / "IM000001")], tmp_path / "out", "--format", "png,dicom-seg") == 1
    assert "needs highdicom: pip install 'retinal_tl[dicom]'" in capfd.readouterr().err
    assert not list((tmp_path / "out").glob("*.png")), "it is said before anything is written"
    assert command(clinic, [str(tmp_path / "none.dcm")], tmp_path / "out", "--format", "dicom-seg") == 1


def test_a_header_that_claims_more_than_there_is(tmp_path, monkeypatch):
    """Found by fuzzing: a length of gigabytes, for which memory is asked before the file is found to be short."""
    path = write_dicom(tmp_path / "eye.dcm", photo_dataset(PHOTO))

    def full(*given, **options):
        raise MemoryError

    monkeypatch.setattr(pydicom.filereader, "read_partial", full)
    assert "takes more memory than there is, or claims to" in sentence(path)
    assert "takes more memory" in sentence(path, list_dicomdir)
    assert photo_frames(path) == [path]  # reading it will say why it cannot be read
