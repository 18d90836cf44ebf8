"""Take the pictures of the report and of the app that the pages show, with today's models and styles.

    python tools/figures/screens.py report      nbs/images/report.jpg
    python tools/figures/screens.py app         nbs/images/app.jpg; needs `pip install 'retinal_tl[app]'`

Both want Chromium. The photographs are phantoms, so the pictures may be in the repository.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))
from browser import Browser
from retinal_tl.core import LESIONS
from retinal_tl.images import write_png
from retinal_tl.synthetic import phantom

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-c", "import sys; from retinal_tl.command import main; sys.exit(main())"]
SIZE = 1000, 664  # width and height of a picture, pixels
WIDER = 1440, 956  # of the window in which the app's two columns lie beside each other


def save(tab: Browser, name: str) -> None:
    """Write what the window shows."""
    path = REPOSITORY / "nbs" / "images" / f"{name}.jpg"
    seen = cv2.resize(np.ascontiguousarray(tab.screenshot()[..., ::-1]), SIZE, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), seen, [cv2.IMWRITE_JPEG_QUALITY, 82])
    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size:,} bytes")


def report(place: Path) -> None:
    """Nine phantoms, one of them dark, and the second one shown."""
    for i in range(9):
        photo = phantom(101 + i, 1000, LESIONS if i % 3 else ()).photo
        write_png(place / "eyes" / f"{101 + i}_left.png", np.uint8(0.25 * photo) if i == 4 else photo)
    command = [*COMMAND, "segment", "eyes", "--model", "builtin-fast", "--output", "found"]
    subprocess.run(command, cwd=place, check=True)
    with Browser(*SIZE) as tab:
        tab.open((place / "found" / "report.html").as_uri())
        tab.wait("document.images.length > 0 && [...document.images].every(image => image.complete)")
        tab.evaluate("[...document.querySelectorAll('button')].find(one => one.textContent == 'Next').click()")
        time.sleep(1)
        save(tab, "report")


def app(place: Path) -> None:
    """A phantom in the app."""
    write_png(place / "phantom_eye.png", phantom(102, 1000, LESIONS).photo)
    command = [*COMMAND, "app", "--model", "builtin-fast"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", started.stdout.readline())
        if address is None:
            raise SystemExit("The app did not start: see what it said above.")
        with Browser(*WIDER) as tab:
            tab.open(address[0])
            tab.upload("#photograph input[type=file]", place / "phantom_eye.png")
            tab.wait("document.querySelector('#picture img')?.complete")
            time.sleep(2)
            save(tab, "app")
    finally:
        started.kill()
        started.communicate()


def main() -> None:
    """Read the words of the command and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", choices=("report", "app"))
    with tempfile.TemporaryDirectory() as folder:
        dict(report=report, app=app)[parser.parse_args().picture](Path(folder))


if __name__ == "__main__":
    main()
