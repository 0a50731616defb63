"""Makes BENCHMARKS.md from the rows that the other scripts wrote: python report.py [FOLDER]"""

import json
import os
import pathlib
import platform
import sys

from common import ROOT, ratio

INTRO = """# Benchmarks against the Python programs

Both sides did the same work in one run on the same cores, by turns; medians. Times are wall time, CPU time (all threads and
processes) in brackets. Memory is the highest proportional set size, summed over all processes of a side. A ratio is
theirs / ours, so more is better. `tests/bench/bench.sh` makes all of it again; what each script does stands at its top.

| work | nnu | against | | ratio | goal | memory | | ratio | goal |
|---|---|---|---|---|---|---|---|---|---|
"""


def seconds(value):
    return f"{value:.2f}" if value < 9.95 else f"{value:.0f}" if value >= 99.5 else f"{value:.1f}"


def time(side):
    return f"{seconds(side['wall'])} s ({seconds(side['cpu'])})"


def memory(side):
    size = side["peak_bytes"]
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def verdict(row, what, goal):
    found = ratio(row, what)
    ratio_text = f"{found:.1f}×" if found < 100 else f"{found:.0f}×"
    if not row[goal]:
        return ratio_text, "–"
    return f"**{ratio_text}**", f"{row[goal]:g}×, {'met' if found >= row[goal] else 'missed'}"


def line(row):
    fast, goal = verdict(row, "wall", "goal")
    small, memory_goal = verdict(row, "peak_bytes", "memory_goal")
    cells = [row["work"], time(row["ours"]), row["against"], time(row["theirs"]), fast, goal]
    cells += [memory(row["ours"]), memory(row["theirs"]), small, memory_goal]
    return f"| {' | '.join(cells)} |\n"


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((l.split(":")[1].strip() for l in file if l.startswith("model name")), platform.machine())
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) / 2**20
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {total:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target/bench"
    rows = [json.loads(path.read_text()) for path in sorted((folder / "rows").glob("*.json"))]
    if not rows:
        sys.exit(f"{folder}/rows: no rows; run the scripts of this folder first")
    text = INTRO + "".join(map(line, rows))
    versions = {name: version for row in rows for name, version in row["versions"].items()}
    text += f"\nMachine: {machine()}.  \n"
    text += f"Versions: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}.\n"
    notes = [row for row in rows if row["notes"]]
    text += "\n" * bool(notes)
    for row in notes:
        found = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row["notes"].items())
        text += f"- {row['name']}: {found}\n"
    out = pathlib.Path(__file__).with_name("BENCHMARKS.md")
    out.write_text(text)
    print(out)


if __name__ == "__main__":
    main()
