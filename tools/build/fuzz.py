"""Damage files by chance, in thousands, and see that the worst that happens is a sentence.

    python tools/build/fuzz.py                                  what `make fuzz` runs: ten thousand cases
    python tools/build/fuzz.py --cases 500 --kinds jpeg dicom   some kinds alone
    python tools/build/fuzz.py --only jpeg:17                   one case again, in this process, with its traceback
    python tools/build/fuzz.py --output results/fuzz.json       keep the summary

A case is a sound file of its kind, damaged by a chance that follows from the seed, the kind and the case's number; the
first cases of a kind are files made to harm (`fuzz_samples.py`). It goes through the public doors of the library in a
process with a limit to its memory and to the time that it computes. It ends well, or with a `RetinalError`; anything
else is a finding: another exception, a crash, ten seconds of computing, more memory than the bound, and any file, link
or process outside of the case's own output folder.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import fuzz_samples as samples
from retinal_tl.core import RetinalError
from retinal_tl.preprocess import Preprocessing

SECONDS = 10  # of computing, for one case
PATIENCE = 60  # seconds on the clock in which a case computes next to nothing
MEMORY = 3 << 30  # bytes of addresses that a case may take beyond what its process has taken before


@dataclass(frozen=True)
class Kind:
    """What is damaged, how, and where it goes."""

    make: Callable[[], list[samples.Sample]]  # sound files
    door: Callable[[Path, Path], None]  # goes through the public doors
    share: int  # of ten thousand cases
    bombs: Callable[[], list[samples.Sample]] = list  # cases that are tried as they are
    text: bool = False  # lines and fields are damaged too
    damaged: tuple[str, ...] = ()  # files that alone are damaged; none: each may be


KINDS = {
    "jpeg": Kind(samples.jpegs, samples.open_pictures, 1500),
    "png": Kind(samples.pngs, samples.open_pictures, 1500, samples.picture_bombs),
    "tiff": Kind(samples.tiffs, samples.open_pictures, 1500),
    "webp": Kind(samples.webps, samples.open_pictures, 500),
    "other": Kind(samples.other_pictures, samples.open_pictures, 600),
    "dicom": Kind(samples.dicoms, samples.open_pictures, 1500, samples.dicom_bombs),
    "csv": Kind(samples.tables, samples.open_tables, 600, samples.table_bombs, text=True, damaged=("labels.csv",)),
    "xls": Kind(samples.excel_sheets, samples.open_tables, 600, damaged=("Annotation_Base11.xls",)),
    "coco": Kind(samples.coco_sets, samples.open_coco, 500, samples.coco_bombs, damaged=("annotations.json",)),
    "card": Kind(samples.runs, samples.open_runs, 500, samples.json_bombs, damaged=("card.json",)),
    "run": Kind(samples.runs, samples.open_runs, 300, samples.npz_bombs),
    "onnx": Kind(samples.runs, samples.open_onnx, 600, samples.onnx_bombs, damaged=("model.onnx",)),
    "weights": Kind(samples.torch_files, samples.open_weights, 200),
    "keras": Kind(samples.keras_runs, samples.open_keras, 80, samples.keras_bombs, damaged=("model.keras",)),
    "names": Kind(samples.named_folders, samples.open_folder, 20, samples.named_folders),
}


# ---- damage

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
VALUES = (
    None,
    True,
    "",
    "x",
    -1,
    0,
    1.5,
    1e308,
    10**30,
    [],
    {},
    [[]],
    "../x",
    "/etc/passwd",
    "\0",
    "9" * 400,
    [1] * 99,
)
TEXTS = (
    "",
    '"',
    "\0",
    "../../x",
    "/etc/passwd",
    "=1+1",
    "9" * 500,
    "\ufeff",
    "NaN",
    "1e999",
    "-1",
    ";" * 50,
    "\r",
    "\u202e",
)


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8, 32))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def lose(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 4, 64, 512))]


def double(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.choice((1, 4, 64, 512))] * chance.choice((1, 2, 50))


def claim(data: bytearray, chance: random.Random) -> None:
    size, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
    at = chance.choice((chance.randrange(len(data)), chance.randrange(min(len(data), 400))))
    data[at : at + size] = (chance.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, order)


def blank(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    length = len(data[at : at + chance.choice((4, 64, 1024))])
    data[at : at + length] = bytes([chance.choice((0, 255))]) * length


def noise(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    part = chance.randbytes(chance.choice((1, 8, 100)))
    data[at : at + len(part)] = part


BLOWS = (flip, flip, cut, lose, double, claim, claim, blank, noise)


def strike(data: bytes, chance: random.Random) -> bytes:
    """A few blows, of which the file's format is not asked."""
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if damaged:
            chance.choice(BLOWS)(damaged, chance)
    return bytes(damaged)


def strike_png(data: bytes, chance: random.Random) -> bytes:
    """A blow within a chunk, whose checksum is then set right."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        parts.append(data[at:end])
        at = end
    i = chance.randrange(1, len(parts))
    inside = parts[i][4:-4]
    kind, inside = inside[:4], inside[4:]
    if kind == b"IDAT" and chance.random() < 0.5:
        with contextlib.suppress(zlib.error):
            inside = zlib.compress(strike(zlib.decompress(inside), chance))
    else:
        inside = strike(inside, chance) if inside else chance.randbytes(5)
    parts[i] = struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))
    return b"".join(parts)


def strike_zip(data: bytes, chance: random.Random) -> bytes:
    """A blow within a part of an archive, or a part by another name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(sorted(parts))
    if chance.random() < 0.2:
        parts[chance.choice(("../outside/x", "/etc/x", name + "/x", ""))] = parts.pop(name)
    else:
        parts[name] = strike_json(parts[name], chance) if name.endswith(".json") else strike(parts[name], chance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return samples.zipped(parts)


def strike_json(data: bytes, chance: random.Random) -> bytes:
    """Values replaced, removed, doubled, or under other keys."""
    tree = json.loads(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = [(node, key) for node in nodes(tree) for key in (node if isinstance(node, dict) else range(len(node)))]
        if not places:
            break
        node, key = chance.choice(places)
        what = chance.random()
        if what < 0.7:
            node[key] = chance.choice(VALUES)
        elif what < 0.85:
            del node[key]
        elif isinstance(node, dict):
            node[chance.choice(("x", "", "../x", "__class__"))] = node.pop(key)
        else:
            node.extend([node[key]] * chance.choice((1, 100)))
    return json.dumps(tree).encode()


def nodes(tree: object) -> Iterable:
    """Each dict and list of a tree."""
    if isinstance(tree, (dict, list)):
        yield tree
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from nodes(each)


def strike_text(data: bytes, chance: random.Random) -> bytes:
    """Fields replaced and lines doubled, moved or lost."""
    lines = data.split(b"\n")
    for _ in range(chance.choice((1, 2, 5))):
        i = chance.randrange(len(lines))
        fields = lines[i].split(b",")
        fields[chance.randrange(len(fields))] = chance.choice(TEXTS).encode()
        lines[i] = b",".join(fields)
        if chance.random() < 0.3:
            lines.insert(chance.randrange(len(lines)), lines[i])
    return b"\n".join(lines)


def strike_dicom(data: bytes, chance: random.Random) -> bytes:
    """An attribute with another value, or gone."""
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data))
    for _ in range(chance.choice((1, 1, 3))):
        element = chance.choice([*dataset, *dataset.file_meta])
        home = dataset if element.tag in dataset else dataset.file_meta
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if chance.random() < 0.2:
                del home[element.tag]
            else:
                home[element.tag].value = chance.choice(
                    (*NUMBERS[:10], "", "x", "1\\2", -1, "1.2.840.10008.1.2.4.90", b"ab")
                )
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset.save_as(stream, enforce_file_format=False)
        except Exception:  # pydicom does not write what cannot be written
            return data
    return stream.getvalue()


def strike_onnx(data: bytes, chance: random.Random) -> bytes:
    """A node of another kind or with other inputs, a constant of another shape or with other values."""
    import onnx

    model = onnx.load_from_string(data)
    node, weight = chance.choice(model.graph.node), chance.choice(model.graph.initializer)
    what = chance.randrange(5)
    if what == 0:
        node.op_type = chance.choice(
            ("Resize", "Tile", "Loop", "If", "Concat", "Conv", "Expand", "Gather", "MatMul", "x")
        )
    elif what == 1 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice([*node.output, *node.input, "", weight.name])
    elif what == 2:
        weight.dims[:] = [chance.choice(NUMBERS[:13]) for _ in range(chance.randrange(5))]
    elif what == 3:
        weight.raw_data = strike(weight.raw_data, chance)
    else:
        node.attribute.append(
            onnx.helper.make_attribute(chance.choice(("axis", "axes", "x")), chance.choice(NUMBERS[:13]))
        )
    return model.SerializeToString()


STRUCTURED = {".png": strike_png, ".keras": strike_zip, ".npz": strike_zip, ".json": strike_json, ".csv": strike_text,
              ".dcm": strike_dicom, ".onnx": strike_onnx}  # fmt: skip


def damage(sample: samples.Sample, names: list[str], chance: random.Random) -> samples.Sample:
    """One file of a sample struck; rarely one is lost, or two are exchanged."""
    damaged, name = dict(sample), chance.choice(names)
    what, by_format = chance.random(), STRUCTURED.get(Path(name).suffix)
    if len(names) > 1 and what < 0.1:
        other = chance.choice(names)
        damaged[name], damaged[other] = damaged[other], damaged[name]
    elif len(names) > 1 and what < 0.2:
        del damaged[name]
    elif by_format and chance.random() < 0.6:
        with contextlib.suppress(ValueError, UnicodeError, KeyError, zipfile.BadZipFile):
            damaged[name] = by_format(sample[name], chance)
    else:
        damaged[name] = strike(sample[name], chance)
    return damaged


# ---- a case


@cache
def sound(kind: str) -> list[samples.Sample]:
    return KINDS[kind].make()


@cache
def bombs(kind: str) -> list[samples.Sample]:
    return KINDS[kind].bombs()


def case(kind: str, number: int, seed: int) -> samples.Sample:
    """The files of a case, always the same."""
    if number < len(bombs(kind)):
        return bombs(kind)[number]
    chance = random.Random(f"{seed} {kind} {number}")
    sample = chance.choice(sound(kind))
    if kind == "names":
        return {chance.randbytes(12).hex() + chance.choice(TEXTS).replace("/", "").replace("\0", "") + ".png": data
                for data in sample.values()}  # fmt: skip
    return damage(sample, list(KINDS[kind].damaged or sample), chance)


def lay_out(place: Path, files: samples.Sample) -> tuple[Path, Path]:
    """The folder of a case, with its files in it, and the one that it may write to."""
    folder, output = place / "case", place / "output"
    for one in (folder, output):
        shutil.rmtree(one, ignore_errors=True)
        one.mkdir()
    for name, data in files.items():
        with contextlib.suppress(OSError, ValueError):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder, output


def left_outside(place: Path) -> list[str]:
    """What lies beside the output folder, with the time of its last change."""
    found = []
    for top, folders, files in os.walk(place):
        if top == str(place):
            folders.remove("output")
        found += [f"{top}/{name} {os.lstat(f'{top}/{name}').st_mtime_ns}" for name in (*folders, *files)]
    return sorted(found)


FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.symlink", "os.link"}


class Watch:
    """Sees, as Python's audit hook, what a case does that no reader of files should do."""

    def __init__(self, place: Path):
        self.place, self.seen, self.on = str(place), list[str](), False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.100}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and isinstance(arguments[2], int):
            path, writes = os.fsdecode(arguments[0]), arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and path != os.devnull and not os.path.realpath(path).startswith((self.place + "/", "/dev/shm")):
                self.seen.append(f"open for writing {path!r:.100}")


def run_case(kind: str, files: samples.Sample, place: Path, watch: Watch) -> tuple[str, str]:
    """'fine', 'refused' or 'finding', and the sentence or what was found."""
    folder, output = lay_out(place, files)
    before = left_outside(place)
    try:
        watch.on = True
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            KINDS[kind].door(folder, output)
        result, said = "fine", ""
    except RetinalError as error:
        result, said = "refused", str(error)
    except Exception:
        result, said = "finding", traceback.format_exc(limit=-8)
    finally:
        watch.on = False
    if kind in ("onnx", "keras"):  # whose digests are set right in place
        before = [line for line in before if "/case/card.json " not in line]
    outside = [
        line
        for line in set(left_outside(place)) ^ set(before)
        if "/case/card.json " not in line or kind not in ("onnx", "keras")
    ]
    outside = [line for line in outside if not line.rpartition(" ")[0].endswith("/case")]
    if outside or watch.seen:
        result, said = "finding", "; ".join([*watch.seen, *outside])
        watch.seen.clear()
    return result, said


# ---- processes


@cache
def toys(kind: str) -> samples.Sample:
    """A run on small pictures, in which photographs end."""
    return samples.run_files(kind, preprocessing=Preprocessing(64, "none"), tile=64)


def furnish(place: Path) -> None:
    """Make the place of a process ready: what cases look for, and where they may write."""
    for name in ("outside", "tmp", "cwd"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "outside" / "secret.png").write_bytes(samples.png_eye())
    os.environ["TMPDIR"] = tempfile.tempdir = str(place / "output")
    for name, one in (("run", "segmenter"), ("classifier", "classifier")):
        files = toys(one)
        (place / name).mkdir(exist_ok=True)
        for file, data in files.items():
            (place / name / file).write_bytes(data)
    (place / "output").mkdir(exist_ok=True)
    os.chdir(place / "cwd")


def begin(kind: str, place: Path) -> Watch:
    """Make a process ready: all imports done, then the limit to its memory."""
    furnish(place)
    faulthandler.disable()  # of pytest; how a process ends is counted here
    with open(os.devnull, "w") as nowhere:
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
    watch = Watch(place)
    with contextlib.suppress(Exception):  # what is imported late
        KINDS[kind].door(lay_out(place, sound(kind)[0])[0], place / "output")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return watch


def resident() -> int:
    """Bytes of memory that this process had at most since the last call; 0 where the system does not say."""
    try:
        text = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) << 10
    except (OSError, StopIteration):
        return 0


def work(kind: str, seed: int, place: Path, numbers: Iterable[int], to) -> None:
    """What a process does: cases, one after another; each is announced, and then its result is sent."""
    watch = begin(kind, place)
    first = resident()
    for number in numbers:
        files = case(kind, number, seed)
        to.send((number, None))
        resident()
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends a process that does not heed it
        result = run_case(kind, files, place, watch)
        signal.setitimer(signal.ITIMER_PROF, 0)
        to.send((number, (*result, time.process_time() - begun, max(0, resident() - first))))
    to.send((None, None))


def run_kind(kind: str, cases: int, seed: int, report: Callable[[int, tuple], None], until: float = math.inf) -> None:
    """All cases of a kind, or those for which there is time, in a process that is replaced when it is lost."""
    context, number = multiprocessing.get_context("fork"), 0
    toys("segmenter"), toys("classifier")  # made once, and handed on to each process
    if kind != "keras":  # which starts threads that no fork survives
        sound(kind), bombs(kind)
    while number < cases and time.monotonic() < until:
        with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as place:
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(kind, seed, Path(place), range(number, cases), there))
            process.start()
            there.close()
            doing = number - 1
            try:
                while here.poll(PATIENCE) or computes(process.pid):
                    if not here.poll():
                        continue
                    at, result = here.recv()
                    if at is None:
                        number = cases
                        break
                    doing = at
                    if result:
                        report(at, result)
                        number = at + 1
                    if time.monotonic() > until:
                        cases = number
                        break
            except EOFError:
                pass
            if number >= cases:
                process.kill()
            else:
                if process.is_alive():
                    process.join(1)
                why = how_it_ended(process)
                process.kill()
                report(max(doing, number), ("finding", why, SECONDS, 0))
                number = max(doing, number) + 1
            process.join()


def computes(pid: int) -> bool:
    """Is a process at work? It is looked at for some seconds; on a busy machine its share may be small."""
    ticks = lambda: sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    try:
        before = ticks()
        time.sleep(PATIENCE / 4)
        return ticks() > before
    except OSError:
        return False


def how_it_ended(process) -> str:
    """Why a process gave no answer."""
    if process.exitcode is None:
        return f"it waited for {PATIENCE} seconds without computing"
    if process.exitcode == -signal.SIGPROF:
        return f"it computed for {SECONDS} seconds"
    return f"the process ended with {process.exitcode}"


# ---- all


def shares(cases: int, kinds: Iterable[str]) -> dict[str, int]:
    """How many cases of each kind, at least all that are made to harm where there is room for them."""
    whole = sum(KINDS[kind].share for kind in kinds)
    return {kind: max(1, round(cases * KINDS[kind].share / whole)) for kind in kinds}


def fuzz(
    cases: int, seed: int, kinds: Iterable[str], minutes: float = math.inf, say: Callable[[str], object] = print
) -> dict:
    """Run the cases, or those for which there is time, and count what came of them."""
    done: dict[str, dict] = {}
    findings: list[dict] = []
    begun, left = time.monotonic(), sum(shares(cases, kinds := list(kinds)).values())
    for kind, count in shares(cases, kinds).items():
        now = time.monotonic()
        until = now + (begun + 60 * minutes - now) * count / left
        left -= count
        counts, slowest, largest = Counter[str](), 0.0, 0

        def report(number: int, result: tuple, kind=kind) -> None:
            nonlocal slowest, largest
            what, said, seconds, memory = result
            counts[what] += 1
            slowest, largest = max(slowest, seconds), max(largest, memory)
            if what == "finding":
                findings.append(dict(case=f"{kind}:{number}", what=said))
                say(f"{kind}:{number} {said}")

        run_kind(kind, count, seed, report, until)
        done[kind] = dict(cases=counts.total(), **{name: counts[name] for name in ("fine", "refused", "finding")},
                          slowest_seconds=round(slowest, 1), most_megabytes=round(largest / 1e6))  # fmt: skip
        say(f"{kind}: {done[kind]}")
    total = {name: sum(one[name] for one in done.values()) for name in ("cases", "fine", "refused", "finding")}
    limits = dict(seconds=SECONDS, megabytes_of_addresses=MEMORY >> 20)
    return dict(**total, seed=seed, limits=limits, minutes=round((time.monotonic() - begun) / 60, 1), kinds=done,
                findings=findings)  # fmt: skip


def facts() -> dict:
    """The command and the commit."""
    place = Path(__file__).resolve().parents[2]
    git = lambda *words: subprocess.run(["git", *words], cwd=place, capture_output=True, text=True).stdout.strip()
    command = " ".join(["python", "tools/build/fuzz.py", *sys.argv[1:]])
    return dict(
        command=command, commit=git("rev-parse", "--short", "HEAD"), changed=bool(git("status", "--porcelain", "-uno"))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, metavar="N", help="in all (default: 10000)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="M", help="end after so many, whatever is left"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the chance (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one case, in this process")
    parser.add_argument("--output", metavar="FILE", help="where the summary is written as JSON")
    given = parser.parse_args()
    if given.only:
        kind, _, number = given.only.partition(":")
        with tempfile.TemporaryDirectory() as place:
            stderr = os.dup(2)
            watch = begin(kind, Path(place))
            result = run_case(kind, case(kind, int(number), given.seed), Path(place), watch)
            os.write(stderr, (": ".join(result) + "\n").encode())
        return int(result[0] == "finding")
    say = lambda line: print(line, flush=True)
    summary = facts() | fuzz(given.cases, given.seed, given.kinds, given.minutes, say)
    if given.output:
        Path(given.output).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{summary['cases']} cases, {summary['finding']} findings")
    return int(summary["finding"] > 0)


if __name__ == "__main__":
    sys.exit(main())
