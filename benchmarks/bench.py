"""How fast retinal_tl is, beside others who do the same and beside what the machine can do.

    make bench                                  about twenty minutes on two cores
    python benchmarks/bench.py --quick          about a minute
    python benchmarks/bench.py --only network   one part

Prints tables and bars, and writes results/bench-<machine>.json, which the page `explanation/speed` shows. With --only,
the parts that were measured replace what the file has of them. Before two are timed it is made sure that they do the
same. They run by turns, so that what else the machine does costs both as much.
"""

import argparse
import re
from datetime import UTC, datetime
from pathlib import Path

from measure import REPOSITORY, bars, machine, table, write
from parts import PARTS, measure


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute: fewer rounds, smaller things")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; repeat it for others")
    parser.add_argument(
        "--output", type=Path, help="the file (default: results/bench-<machine>.json; none with --quick)"
    )
    arguments = parser.parse_args()
    about = dict(machine=machine(), measured=datetime.now(UTC).isoformat(timespec="minutes"), quick=arguments.quick)
    words = " ".join(str(about["machine"][name]) for name in ("processor", "instructions", "cores"))
    name = re.sub(r"\W+", "-", words).strip("-").lower()
    default = REPOSITORY / "results" / f"bench-{name}.json"
    path = arguments.output or (None if arguments.quick else default)
    rows, skipped = [], {}
    for name, found, why in measure(arguments.only or list(PARTS), arguments.quick):
        rows += found
        skipped |= {name: why} if why else {}
        if path:
            write(path, about | dict(command="make bench"), rows, skipped)  # at once: it can be stopped
    print(table(rows), "\n\nratios", bars(rows), sep="\n")
    if path:
        print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
