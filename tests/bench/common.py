"""What the scripts that compare nnu with Python share: options, measured runs, rows for report.py.

Wall time, CPU time (user and system, of a process and all the children it waited for) and peak memory. Memory is the
proportional set size, summed over the tree of processes: pages that several of them share count once. It is looked up
every few milliseconds at most, so a peak that lasts less may be missed; a program's own high-water mark is taken where that
is higher and it has no children.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ("nnunetv2", "batchgeneratorsv2", "torch", "numpy", "scipy", "scikit-image", "connected-components-3d")
SHORTEST_POLL = 0.001  # seconds
POLLING_SHARE = 0.05  # of one core, at most


@dataclass
class Measured:
    wall: float  # seconds
    cpu: float  # seconds
    peak_bytes: int
    stdout: str = ""
    stderr: str = ""


def options(description):
    parser = argparse.ArgumentParser(description=description)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path
    parser.add_argument("--bin", type=path, default=target / "release", help="folder of nnu's release programs")
    parser.add_argument("--work", type=path, help="folder for intermediate files [default: a temporary one]")
    parser.add_argument("--data", type=path, help="folder of data sets; without it, what needs them is left out")
    parser.add_argument("--out", type=path, default=ROOT / "target/bench", help="folder for rows/NAME.json")
    parser.add_argument("--repeats", type=int, default=3, help="runs of either side; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="threads or processes of either side")
    found = parser.parse_args()
    found.bin, found.out = found.bin.resolve(), found.out.resolve()
    found.data = found.data and found.data.resolve()
    if not found.work:
        found.temporary = tempfile.TemporaryDirectory(prefix="nnu-bench-")
        found.work = pathlib.Path(found.temporary.name)
    found.work = found.work.resolve()
    found.work.mkdir(parents=True, exist_ok=True)
    return found


def run(command, env=None, cwd=None):
    """A process with all its children; `env` is added to this process's environment. Fails as the command fails."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        begun = time.perf_counter()
        added = {**os.environ, **{name: str(value) for name, value in (env or {}).items()}}
        process = subprocess.Popen(command, env=added, cwd=cwd, stdout=stdout, stderr=stderr)
        wall, cpu, peak, status = _watch(process.pid, begun)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{''.join(texts)}")
    return Measured(wall, cpu, peak, *texts)


def precisions(options):
    """Those in which nnu-net computes on this CPU; what is left out is said."""
    here = []
    for precision in ("f32", "f32-fast", "bf16"):
        command = [options.bin / "nnu-net", "bench", "--features", "4,8", "--patch", "8,8,8", "--batch", 1, "--device", "cpu"]
        command = [str(part) for part in [*command, "--precision", precision]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 2:
            print(f"left out: {done.stderr.splitlines()[0]}", flush=True)
        elif done.returncode:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
        else:
            here.append(precision)
    return here


def call(function, then=None):
    """The same for a Python call, in a forked child: what was imported and loaded before isn't timed.

    Time is that of the call alone. Memory is the child's; of pages that it shares with this process, half counts.
    `then`, if given, is called with the result in the child, untimed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            wall, cpu = time.perf_counter(), _cpu()
            result = function()
            times = time.perf_counter() - wall, _cpu() - cpu
            with os.fdopen(writer, "wb") as file:
                pickle.dump(times, file)
            if then:
                then(result)
            status = 0
        except BaseException as error:  # The child must end here, whatever happened.
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    _, _, peak, status = _watch(child, time.perf_counter())
    with os.fdopen(reader, "rb") as file:
        times = file.read()
    if status:
        sys.exit("the measured call failed")
    return Measured(*pickle.loads(times), peak)


def compare(options, name, work, against, ours, theirs, goal, memory_goal=None, repeats=None, **notes):
    """Runs `ours` and `theirs` by turns and writes their medians to OUT/rows/NAME.json.

    `goal` says how many times faster (wall time) ours shall be, `memory_goal` how many times less memory it shall take;
    `notes` are numbers or words for the report.
    """
    repeats = repeats or options.repeats
    sides = {"ours": [], "theirs": []}
    for turn in range(repeats):
        for side, function in (("ours", ours), ("theirs", theirs)):
            found = function()
            sides[side].append(found)
            print(f"{name} {side:6} {_line(found)}", flush=True)
    median = {side: _median(found) for side, found in sides.items()}
    row = {
        "name": name,
        "work": work,
        "against": against,
        "goal": goal,
        "memory_goal": memory_goal,
        "repeats": repeats,
        **median,
        "notes": notes,
        "command": " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": _versions(),
    }
    rows = options.out / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    (rows / f"{name}.json").write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    _verdict(row)
    return row


def ratio(row, what):
    """How many times more of it theirs takes."""
    return row["theirs"][what] / max(row["ours"][what], 1e-9)


def _verdict(row):
    for side in ("ours", "theirs"):
        print(f"{row['name']} {side:6} {_line(Measured(**row[side]))} (median of {row['repeats']})")
    asked = [("wall", "goal", "faster"), ("peak_bytes", "memory_goal", "less memory")]
    for what, goal, word in asked:
        if row[goal]:
            found = ratio(row, what)
            met = "met" if found >= row[goal] else "MISSED"
            print(f"{row['name']} {found:.1f} times {word}, goal {row[goal]:g}: {met}", flush=True)


def _line(found):
    return f"{found.wall:8.3f} s wall {found.cpu:8.3f} s CPU {found.peak_bytes / 1e6:8.1f} MB"


def _median(found):
    middle = lambda what: statistics.median(getattr(one, what) for one in found)
    return {"wall": middle("wall"), "cpu": middle("cpu"), "peak_bytes": int(middle("peak_bytes"))}


def _cpu():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _versions():
    found = {}
    for package in PEERS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def _watch(pid, begun):
    """Wall time since `begun`, CPU time, peak memory and wait status of a child."""
    ended = {}

    def wait():
        _, status, usage = os.wait4(pid, 0)
        ended.update(at=time.perf_counter(), status=status, cpu=usage.ru_utime + usage.ru_stime)

    waiting = threading.Thread(target=wait)
    waiting.start()
    peak, pause = 0, SHORTEST_POLL
    while waiting.is_alive():
        used = time.thread_time()
        peak = max(peak, _memory(pid))
        pause = max(SHORTEST_POLL, (time.thread_time() - used) / POLLING_SHARE)
        waiting.join(pause)
    return ended["at"] - begun, ended["cpu"], peak, ended["status"]


def _memory(pid):
    """Bytes that a process and its children take now, or took at most where there are no children."""
    tree = _tree(pid)
    found = sum(_field(one, "smaps_rollup", b"Pss:") for one in tree)
    if len(tree) == 1 and _is_program(pid):
        # Resident, so that whole pages of shared libraries count, less those that the proportional size leaves out.
        shared = _field(pid, "smaps_rollup", b"Rss:") - found
        found = max(found, _field(pid, "status", b"VmHWM:") - max(shared, 0))
    return found


def _is_program(pid):
    """Whether the process has become another program than this one: a fork's high-water mark is its parent's."""
    try:
        return not os.path.samefile(f"/proc/{pid}/exe", "/proc/self/exe")
    except OSError:
        return False


def _tree(pid):
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children", "rb") as file:
                    found += [int(child) for child in file.read().split()]
        except OSError:
            continue
    return found


def _field(pid, file, name):
    """Bytes of a line `NAME N kB`; 0 of a process that has ended."""
    try:
        with open(f"/proc/{pid}/{file}", "rb") as lines:
            for line in lines:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
