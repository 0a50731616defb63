"""Makes results.md and results.json of what the steps of gpu.sh left: gpu_report.py WORK OUT

WORK holds network.json, inference.json, data.json (what is missing was not run or failed), kernels.csv of ncu, summary.txt
(a line per step) and versions.txt. results.md is what kernels/RESULTS.md takes up.
"""

import collections
import csv
import json
import math
import pathlib
import re
import sys

# The last kernels of a training iteration, by name.
UPDATE = re.compile(r"adam|sgd|nesterov|optimis|update", re.I)
CONVOLUTION = re.compile(r"convol|gather|scatter|outer|pack", re.I)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines) + "\n"


def ms(times):
    return f"{times['median'] * 1e3:.2f} ({times['least'] * 1e3:.2f}–{times['most'] * 1e3:.2f})"


class Goals:
    """What was asked for, beside what was found."""

    def __init__(self, rehearsal):
        self.rows, self.rehearsal = [], rehearsal

    def add(self, what, goal, found, met):
        self.rows.append([what, goal, found, "rehearsal" if self.rehearsal else "met" if met else "missed"])

    def __str__(self):
        return "### Goals\n\n" + table(["what", "goal", "found", ""], self.rows) if self.rows else ""


def network(results, convolutions, goals):
    rates = results["rates"]
    text = f"The card's own rates: {rates['matrix'] / 1e12:.0f} TFLOP/s (bfloat16, 8192³, torch.matmul), "
    text += f"{rates['memory'] / 1e12:.2f} TB/s (copy, read and written).\n\n"
    for title, case in results["cases"].items():
        if "ours" not in case:
            continue
        sides = {"nnu-net bf16": case["ours"], **case["pytorch"]}
        rows = []
        for name, times in sides.items():
            rate = case["flop"]["training"] / times["training"]["median"]
            share = f"{rate / 1e12:.0f} ({100 * rate / rates['matrix']:.1f} %)"
            rows.append([name, ms(times["training"]), share, ms(times["forward"])])
        if "ours f32" in case:
            exact = case["ours f32"]
            rows.append(["nnu-net f32", f"{exact['training'] * 1e3:.2f}", "", f"{exact['forward'] * 1e3:.2f}"])
        text += f"### {title}: training iteration, forward pass\n\nMedian (least–most), milliseconds.\n\n"
        text += table(["", "training", "TFLOP/s (of the matrix rate)", "forward"], rows)
        text += "".join(f"Left out: {name}: {why}\n\n" for name, why in case["left out"].items())
        for key, goal in [("training", 2 if title.startswith("128") else 3), ("forward", 2.5)]:
            if not case["pytorch"]:
                continue
            name, best = min(case["pytorch"].items(), key=lambda item: item[1][key]["median"])
            ratio = best[key]["median"] / case["ours"][key]["median"]
            goals.add(f"{title}: {key}", f"≥ {goal} × PyTorch's fastest", f"{ratio:.2f} × {name}", ratio >= goal)
        if title.startswith("128"):
            share = case["flop"]["training"] / case["ours"]["training"]["median"] / rates["matrix"]
            found, judged = f"{100 * share:.1f} % over the iteration", share
            if convolutions:
                judged = case["flop"]["training"] / convolutions / rates["matrix"]
                found += f", {100 * judged:.1f} % over its convolutions' kernels"
            goals.add(f"{title}: convolutions", "≥ 25 % of the matrix rate", found, judged >= 0.25)
    return text


def inference(results, goals):
    text = f"### From image to segmentation\n\nnnU-Net: {results['nnU-Net']}. Seconds.\n\n"
    rows = []
    for name, image in results["images"].items():
        spent, best = image["ours"]["median"], None
        own = next((found for line in image["log"] if (found := re.search(r"network ([\d.]+) (m?s)\b", line))), None)
        window = float(own[1]) * (1e-3 if own[2] == "ms" else 1) if own else math.nan
        rows.append([name, "nnu-infer, whole program", f"{spent:.2f}", f"{window:.2f}", ""])
        if "by hand" in image:
            hand = image["by hand"]
            same = f"{100 * hand['agreement']['voxels']:.3f} %"
            rows.append([name, f"PyTorch by hand, {hand['way']}", f"{hand['seconds']:.2f}", f"{hand['window']:.2f}", same])
            best = hand["seconds"], "PyTorch by hand"
        theirs = image.get("nnU-Net")
        if isinstance(theirs, dict):
            same = f"{100 * theirs['agreement']['voxels']:.3f} %"
            rows.append([name, "nnU-Net's predictor", f"{theirs['seconds']:.2f}", "", same])
            best = theirs["seconds"], "nnU-Net's predictor"
        if best:
            ratio = best[0] / spent
            goals.add(f"{name}: image → segmentation", "≥ 10 × nnU-Net's predictor", f"{ratio:.1f} × {best[1]}", ratio >= 10)
    text += table(["image", "side", "in all", "window alone", "same labels as ours"], rows)
    for name, image in results["images"].items():
        parts = [line for line in image["log"] if "read " in line]
        text += f"{name}: {'×'.join(map(str, image['shape']))} voxels; {'; '.join(parts)}\n\n"
    return text


def data(results, goals):
    rows = [[name, f"{rate:.1f}"] for name, rate in results.items() if name.startswith("nnU-Net") and rate]
    rows += [[f"nnu on the card, {name}", f"{rate:.1f}"] for name, rate in (results["augmented per second"] or {}).items()]
    text = "### Batches\n\nSamples augmented per second; nnU-Net's transforms on all cores, a process each.\n\n"
    text += table(["", "samples/s"], rows)
    training = results.get("training")
    if training:
        each = training["seconds"] / training["iterations"] * 1e3
        text += f"nnu-train, last epoch of {training['iterations']} iterations: {training['seconds']:.1f} s, {each:.1f} ms each "
        text += f"with validation and files; network: {training['network']}\n\n"
        goals.add("training waits for data", "< 1 %", f"{100 * training['waiting']:.1f} %", training["waiting"] < 0.01)
    return text


def launches(path):
    """Kernel launches that ncu recorded, in order: (name, {metric: value}), in ncu's long or wide form."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines() if line.startswith('"')]
    found, number = {}, lambda text: float(text.replace(",", ""))
    for row in csv.DictReader(lines):
        if not row["ID"]:
            continue  # the units
        name, metrics = found.setdefault(row["ID"], (row["Kernel Name"], {}))
        if "Metric Name" in row:
            row = {row["Metric Name"]: row["Metric Value"]}
        metrics.update((key, number(value)) for key, value in row.items() if "__" in key and value)
    return list(found.values())


def one_iteration(recorded):
    """The launches of the last complete training iteration: behind one update of the parameters, up to the next."""
    ends = [i for i, (name, _) in enumerate(recorded) if UPDATE.search(name)]
    last = [i for i in ends if i + 1 not in ends]
    return recorded[last[-2] + 1 : last[-1] + 1] if len(last) > 1 else recorded


def profile(recorded):
    """What the kernels of an iteration cost; and the seconds of its convolutions."""
    costs = collections.defaultdict(list)
    for name, metrics in recorded:
        costs[re.sub(r"\(.*", "", name)].append(metrics)
    time = "gpu__time_duration.sum"
    total = sum(m[time] for list_ in costs.values() for m in list_)
    rows, convolutions = [], 0.0
    for name, list_ in sorted(costs.items(), key=lambda item: -sum(m[time] for m in item[1])):
        spent = sum(m[time] for m in list_)
        convolutions += spent / 1e9 if CONVOLUTION.search(name) else 0.0
        mean = lambda key: f"{sum(m.get(key, 0) * m[time] for m in list_) / spent:.0f}"
        busy = [mean(f"{unit}__throughput.avg.pct_of_peak_sustained_elapsed") for unit in ("sm", "dram")]
        rows.append([name, len(list_), f"{spent / 1e6:.3f}", f"{100 * spent / total:.1f}", *busy])
    text = f"### Kernels of one training iteration, {total / 1e6:.2f} ms of them\n\n"
    head = ["kernel", "launches", "ms", "% of the time", "multiprocessors busy, %", "memory busy, %"]
    return text + table(head, rows[:24]), convolutions


def main():
    work, out = map(pathlib.Path, sys.argv[1:])
    parts = {name: work / f"{name}.json" for name in ("network", "inference", "data")}
    results = {name: json.loads(path.read_text()) for name, path in parts.items() if path.exists()}
    versions, summary = (work / "versions.txt").read_text(), (work / "summary.txt").read_text()
    text = f"## Measured\n\n```\n{versions}```\n\n```\n{summary}```\n\n"
    goals, recorded = Goals("REHEARSAL" in versions), one_iteration(launches(work / "kernels.csv"))
    profiled, convolutions = profile(recorded) if recorded else ("", None)
    if "rates" in results.get("network", {}):
        text += network(results["network"], convolutions, goals)
    if "inference" in results:
        text += inference(results["inference"], goals)
    if "data" in results:
        text += data(results["data"], goals)
    text += profiled + str(goals)
    (out / "results.md").write_text(text)
    results |= {"versions": versions.splitlines(), "steps": summary.splitlines(), "goals": goals.rows}
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(text[text.find("### Goals"):] if goals.rows else text)


if __name__ == "__main__":
    main()
