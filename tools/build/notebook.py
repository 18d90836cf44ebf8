"""Execute one notebook as nbdev tests it.

    python tools/build/notebook.py nbs/11_cbam.ipynb

The exit status is 0, 1 if a cell fails, and 5 if the notebook asks not to be executed. `pytest nbs/11_cbam.ipynb` does
the same and counts it as a test.
"""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NOT_EXECUTED = 5


def main(path: Path) -> int:
    from nbdev.config import get_config
    from nbdev.test import test_nb

    flags = get_config(path=REPOSITORY).tst_flags.split()
    os.chdir(path.parent)
    succeeded, seconds = test_nb(path, skip_flags=flags, basepath=REPOSITORY)
    if succeeded and seconds == 0:
        return NOT_EXECUTED
    return int(not succeeded)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
