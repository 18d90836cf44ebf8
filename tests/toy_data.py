"""Data sets of a few small files, tables of the oldest Excel format, and where the real ones are."""

import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinal_tl.datasets import Example

SHARED = Path(os.environ.get("RETINAL_TL_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
needs_idrid = pytest.mark.skipif(not (SHARED / "IDRiD").is_dir(), reason="IDRiD is not here")
needs_screening = pytest.mark.skipif(not (SHARED / "DR-screening").is_dir(), reason="DR-screening is not here")


def eye(size=64):
    photo = np.zeros((size, size, 3), np.uint8)
    cv2.circle(photo, (size // 2, size // 2), size * 7 // 15, (40, 80, 170), -1)
    cv2.circle(photo, (size * 2 // 3, size // 2), size // 12, (120, 190, 230), -1)
    return photo


def outline(size=64):
    "A mask of one lesion."
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 3, size // 3), size // 10, 255, -1)
    return mask


def drawn(path):
    "A mask where the folder's name says that it holds masks, an eye elsewhere."
    folders = [part for part in path.parts[:-1] if not part.startswith("test_")]
    return outline() if re.search("mask|label|annotation|groundtruths", "/".join(folders).casefold()) else eye()


def put(folder, *names, content=None):
    "Files below `folder`: a drawn eye or, among masks, an outline; or the text, bytes or array given."
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_bytes(content.encode())
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_bytes(cv2.imencode(path.suffix, drawn(path) if content is None else content)[1].tobytes())
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
