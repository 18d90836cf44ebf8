"""How `make bench` measures: ratios within a turn, memory of a child alone, parts that replace older ones."""

import json
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import measure  # noqa: E402
from measure import Row, alternate, child, table, write  # noqa: E402

ABOUT = dict(machine=dict(commit="abc", load_before=1.0, versions={}), measured="2026-11-29T20:00+00:00", quick=True)


def test_a_ratio_is_of_two_that_run_by_turns(monkeypatch):
    """The machine slows down from turn to turn; within a turn both are three to one."""
    calls, clock = [], [0.0]

    def work(name, seconds):
        calls.append(name)
        clock[0] += seconds * 2 ** ((len(calls) - 1) // 2)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    found = alternate(lambda: work("ours", 1), lambda: work("other", 3), rounds=5)
    assert calls[2:6] in (["other", "ours", "ours", "other"], ["ours", "other", "other", "ours"])
    assert found["low"] == found["ratio"] == found["high"] == pytest.approx(3)


def test_memory_is_the_childs_alone():
    held = bytearray(400_000_000)  # of this process, which the child must not be charged for
    held[::4096] = b"x" * len(held[::4096])
    small = child([sys.executable, "-c", "pass"])
    large = child([sys.executable, "-c", "kept = b'x' * 200_000_000"])
    assert small["memory"] < 0.1 and 0.2 < large["memory"] < 0.3
    with pytest.raises(RuntimeError, match="no such thing"):
        child([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_a_part_replaces_what_was_known_of_it(tmp_path):
    path = tmp_path / "bench.json"
    write(path, ABOUT, [Row("a", "first", 1.0), Row("b", "second", 2.0)], {})
    newer = ABOUT | dict(machine=dict(commit="def", load_before=9.0, versions=dict(numpy="2")))
    write(path, newer, [Row("b", "third", 3.0, 6.0, "them", 2.0, target=1.5)], {})
    kept = json.loads(path.read_text())
    assert [(row["what"], row["commit"]) for row in kept["rows"]] == [("first", "abc"), ("third", "def")]
    assert kept["rows"][1]["met"] is True and kept["machine"]["versions"] == dict(numpy="2")


def test_a_missed_target_is_shown_as_missed():
    assert not Row("a", "b", 1, ratio=1.4, target=1.3, at_least=False).met
    assert "<= 1.3 MISSED" in table([Row("a", "b", 1, ratio=1.4, target=1.3, at_least=False)])
    assert ">= 1.3 met" in table([Row("a", "b", 1, ratio=1.4, target=1.3)])


def test_what_is_compared_was_made_sure_to_be_the_same():
    for path in (REPOSITORY / "results").glob("bench-*.json"):
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        assert rows and all(row["checked"] for row in rows if row["against"])
        versions = measure.machine()["versions"]
        assert set(versions) <= set(measure.PACKAGES)
