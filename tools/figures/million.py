"""A million photographs over a hundred workers, on paper: how long, what is lost, and where it breaks first.

    python tools/figures/million.py results/million.json       about a minute

The loop of `retinal_tl.workers` is simulated, with its rules and with time that is only counted: one photograph in hand
for each worker that lives, what a dead worker had in hand is tried again, and what two workers died of is set aside.
How long a photograph takes, how often workers die and how often the first process is stopped are assumptions, and stand
in the answer. What the first process needs for each photograph is measured here, with a real journal: memory, bytes on
the disk, and the processor time of a line, of reading all lines at the next start and of writing `report.csv`. Waiting
for the disk is not in it.
"""

import argparse
import heapq
import json
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path

from retinal_tl.core import LESIONS
from retinal_tl.findings import COLUMNS, report_text
from retinal_tl.journal import open_journal


@dataclass(frozen=True)
class Assumed:
    """What is not measured here."""

    photographs: int = 1_000_000
    workers: int = 100
    seconds: float = 10.0  # a photograph on one core, with `builtin-fast` at 12 megapixels about
    spread: float = 0.3  # its standard deviation, as a share
    deaths_per_hour: float = 0.05  # of one worker: memory, a machine taken back
    restart_seconds: float = 120.0  # until another one has loaded the model
    killers: int = 10  # photographs of which every worker dies
    stops_per_day: float = 1.0  # of the first process
    line_seconds: float = 0.001  # to write down what came of a photograph; measured below


@dataclass
class Seen:
    """What happened."""

    done: int = 0
    set_aside: int = 0
    innocent: int = 0  # set aside, and no killer: two workers died that had it, by chance
    deaths: int = 0
    stops: int = 0
    lost_seconds: float = 0.0  # of work that was in hand when a worker or the first process ended
    most_tasks: int = 0  # that the scheduler knew at once
    hours: float = 0.0
    waited_hours: float = 0.0  # for the first process, which writes down one photograph at a time


def simulate(given: Assumed, resume_seconds: float, seed: int = 0) -> Seen:
    """The whole batch, event by event."""
    chance, seen = random.Random(seed), Seen()
    killers = set(chance.sample(range(given.photographs), given.killers))
    waiting, again, deaths = iter(range(given.photographs)), [], {}
    events: list[tuple] = []  # (time, number, what, photograph, since)
    free, number, parent, hand = given.workers, 0, 0.0, {}
    stop_at = chance.expovariate(given.stops_per_day / 86400) if given.stops_per_day else float("inf")
    now = 0.0
    while True:
        while free and (photo := again.pop() if again else next(waiting, None)) is not None:
            need = max(0.5, chance.gauss(given.seconds, given.spread * given.seconds))
            dies = chance.expovariate(given.deaths_per_hour / 3600) if given.deaths_per_hour else float("inf")
            dies = min(dies, need / 2) if photo in killers else dies
            what = "died" if dies < need else "done"
            number, free = number + 1, free - 1
            hand[number] = photo
            heapq.heappush(events, (now + min(need, dies), number, what, now))
        seen.most_tasks = max(seen.most_tasks, len(hand))
        if not hand:
            break
        now, key, what, since = heapq.heappop(events)
        if now >= stop_at:  # all that is in hand is lost; the next start reads the journal first
            seen.stops += 1
            seen.lost_seconds += sum(now - event[3] for event in events if event[1] in hand) + now - since
            again += hand.values()
            hand, events, free = {}, [], given.workers
            deaths.clear()  # they are counted anew in each start
            now += resume_seconds + given.restart_seconds
            stop_at = now + chance.expovariate(given.stops_per_day / 86400)
            continue
        if what == "back":
            free += 1
            continue
        photo = hand.pop(key)
        if what == "done":
            parent = max(parent, now) + given.line_seconds  # it writes down one after the other
            seen.waited_hours += (parent - now - given.line_seconds) / 3600
            seen.done, free = seen.done + 1, free + 1
            continue
        seen.deaths += 1
        seen.lost_seconds += now - since
        deaths[photo] = deaths.get(photo, 0) + 1
        if deaths[photo] >= 2:
            seen.set_aside += 1
            seen.innocent += photo not in killers
        else:
            again.append(photo)
        number += 1
        heapq.heappush(events, (now + given.restart_seconds, number, "back", now))
    seen.hours = now / 3600
    return seen


def measure(count: int) -> dict[str, float]:
    """What the first process needs for each photograph of four lesions, from a real journal of so many."""
    row = dict.fromkeys(COLUMNS, 0.123456) | dict(
        photo="/data/eyes/2024/patient000001/left.jpg", warning="", problem=""
    )
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        with open_journal(output, "segment") as journal:
            journal.write(dict(names={f"../eyes/{i:07}.jpg": f"{i:07}" for i in range(count)}))
            begun = time.process_time()
            for i in range(count):
                rows = [row | dict(lesion=lesion, files=f"{i:07}") for lesion in LESIONS]
                names = [f"{i:07}_{lesion}_{kind}.png" for lesion in LESIONS for kind in ("mask", "probability")]
                made = dict(retinal_tl="0.1.0", models=["0" * 16], thresholds=dict.fromkeys(LESIONS, 0.5))
                facts = dict(digest="0" * 64, times=[1, 1700000000000000000 + i, 1700000000000000000])
                journal.write(dict(photo=f"../eyes/{i:07}.jpg", rows=rows, files=names, made=made, **facts))
            line = (time.process_time() - begun) / count
        size = (output / ".retinal_tl" / "journal.jsonl").stat().st_size / count
        tracemalloc.start()
        begun = time.process_time()
        with open_journal(output, "segment") as journal:
            memory = tracemalloc.get_traced_memory()[0] / count
            tracemalloc.stop()
            every = [one for done in journal.done.values() for one in done["rows"]]
            begun = time.process_time()
            report_text(COLUMNS, every)
            table = (time.process_time() - begun) / count
        begun = time.process_time()
        with open_journal(output, "segment"):
            pass
        read = (time.process_time() - begun) / count
    return dict(line_seconds=line, disk_bytes=size, memory_bytes=memory, read_seconds=read, table_seconds=table)


def main() -> int:
    """Measure, simulate, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=1_000_000, help="to simulate (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=100, help="default: %(default)s")
    parser.add_argument(
        "--sample", type=int, default=5000, help="photographs in the real journal (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("output", type=Path, help="a file for the answer")
    given = parser.parse_args()
    each = measure(given.sample)
    assumed = Assumed(given.photographs, given.workers, line_seconds=each["line_seconds"])
    seen = simulate(assumed, each["read_seconds"] * given.photographs, given.seed)
    ideal = assumed.photographs * assumed.seconds / assumed.workers / 3600
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    answer = dict(
        command=" ".join(["python", *sys.argv]),
        commit=commit,
        seed=given.seed,
        assumed=asdict(assumed),
        measured_for_each_photograph={name: float(f"{value:.4g}") for name, value in each.items()},
        for_all=dict(
            memory_gigabytes=round(each["memory_bytes"] * given.photographs / 1e9, 2),
            journal_gigabytes=round(each["disk_bytes"] * given.photographs / 1e9, 2),
            next_start_reads_minutes=round(each["read_seconds"] * given.photographs / 60, 1),
            table_minutes=round(each["table_seconds"] * given.photographs / 60, 1),
            most_photographs_a_second=round(1 / each["line_seconds"]),
        ),
        seen={name: round(value, 3) for name, value in asdict(seen).items()},
        ideal_hours=round(ideal, 2),
    )
    text = json.dumps(answer, indent=1) + "\n"
    given.output.write_text(text)
    print(text)
    return int(seen.done + seen.set_aside != given.photographs)


if __name__ == "__main__":
    sys.exit(main())
