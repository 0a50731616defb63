"""Training iterations and forward passes of nnu-net in every precision beside PyTorch, in float32 as nnU-Net runs it on a
CPU and in the mode that is PyTorch's best there: bfloat16 autocast with channels_last_3d.

Networks: `small`, 4 stages of 32 … 256 features, patch 40×56×40, batch 9; `large`, 6 stages of 32 … 320 features, patch 128³,
batch 2. Two convolutions a stage, instance norm, leaky ReLU, 3 classes; an iteration is forward, Dice + cross-entropy,
backward, Adam with AMSGrad. Every run is a process of its own that makes one untimed iteration ahead; its peak memory holds
the iterations and the forward passes. nnu-net says what share of the machine's measured peak it reached.

    python network.py [option of common.py …]            [NNU_BENCH_NETWORKS=small,large]
"""

import json
import os
import re
import statistics
import sys
import time

from common import Measured, compare, options, precisions, run

NETWORKS = {
    "small": dict(features=(32, 64, 128, 256), patch=(40, 56, 40), batch=9, ours=3, theirs=2),
    "large": dict(features=(32, 64, 128, 256, 320, 320), patch=(128, 128, 128), batch=2, ours=1, theirs=1),
}
# network, part, our precision, their mode, goal, goal for the memory
ROWS = [
    ("small", "training", "f32", "float32", 1.7, 2),
    ("small", "forward", "f32", "float32", None, None),
    ("small", "training", "f32-fast", "float32", 3.5, 2),
    ("small", "training", "bf16", "float32", 6, 2),
    ("small", "training", "bf16", "bfloat16", 2, None),
    ("small", "forward", "bf16", "bfloat16", 1.3, None),
    ("large", "training", "f32", "float32", None, 2),
    ("large", "training", "f32-fast", "float32", 5, 2),
    ("large", "training", "bf16", "float32", None, 2),
    ("large", "training", "bf16", "bfloat16", 3, None),
    ("large", "forward", "bf16", "bfloat16", 1.3, None),
]
CLASSES = 3


def peer(network, mode, threads):
    """In a process of its own: times PyTorch and prints what `theirs` reads."""
    import torch
    from unet import UNet, dice_and_cross_entropy

    spec = NETWORKS[network]
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    net = UNet(spec["features"], classes=CLASSES)
    image = torch.rand(spec["batch"], 1, *spec["patch"]) * 2 - 1
    target = torch.randint(0, CLASSES, (spec["batch"], *spec["patch"]))
    if mode == "bfloat16":
        net = net.to(memory_format=torch.channels_last_3d)
        image = image.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.Adam(net.parameters(), 3e-4, weight_decay=3e-5, amsgrad=True)

    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bfloat16"):
            return net(image)

    def iterate():
        optimiser.zero_grad()
        dice_and_cross_entropy(forward().float(), target).backward()
        optimiser.step()

    def predict():
        with torch.no_grad():
            forward()

    found = {}
    for part, call in (("training", iterate), ("forward", predict)):
        times = []
        for _ in range(1 + spec["theirs"]):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        found[part] = [statistics.median(one) for one in zip(*times[1:])]
    print(json.dumps(found))


def theirs(found, network, mode):
    """Both parts of a run."""
    done = run([sys.executable, __file__, "--peer", network, mode, str(found.threads)])
    times = json.loads(done.stdout.splitlines()[-1])
    return {part: Measured(*times[part], done.peak_bytes) for part in times}, ""


def ours(found, network, precision):
    spec = NETWORKS[network]
    numbers = lambda values: ",".join(map(str, values))
    command = [found.bin / "nnu-net", "bench", "--features", numbers(spec["features"]), "--classes", CLASSES]
    command += ["--patch", numbers(spec["patch"]), "--batch", spec["batch"], "--repetitions", spec["ours"]]
    done = run(command + ["--device", "cpu", "--precision", precision, "--threads", found.threads])
    line = r"^(training iteration|forward): ([\d.]+) s \(([\d.]+) s of CPU\).* ([\d.]+ % of .*)$"
    parts = re.findall(line, done.stdout, re.M)
    measured = {name.split()[0]: Measured(float(wall), float(cpu), done.peak_bytes) for name, wall, cpu, _ in parts}
    return measured, {name.split()[0]: share for name, _, _, share in parts}


def main():
    found = options(__doc__.splitlines()[0])
    wanted = os.environ.get("NNU_BENCH_NETWORKS", "small,large").split(",")
    here = precisions(found)
    rows = [row for row in ROWS if row[0] in wanted and row[2] in here]
    runs = {}
    for turn in range(found.repeats):
        for network, _, precision, mode, _, _ in rows:
            # Every pair of sides once a turn, one behind the other.
            for key, side in (((network, precision), ours), ((network, mode), theirs)):
                if len(runs.setdefault(key, [])) <= turn:
                    runs[key].append(side(found, *key))
                    measured, _ = runs[key][-1]
                    print(*key, {part: (round(m.wall, 3), round(m.cpu, 2)) for part, m in measured.items()}, flush=True)
    for network, part, precision, mode, goal, memory_goal in rows:
        spec = NETWORKS[network]
        size = "×".join(map(str, spec["patch"]))
        takes = {key: iter([one[part] for one, _ in runs[key]]) for key in [(network, precision), (network, mode)]}
        compare(
            found,
            f"network_{network}_{part}_{precision}_{mode}",
            f"{'training iteration' if part == 'training' else 'forward'}, {size}, batch {spec['batch']}, "
            f"{spec['features'][0]}…{max(spec['features'])} features, {precision}",
            f"PyTorch {mode}" + (", channels_last_3d" if mode == "bfloat16" else ""),
            lambda: next(takes[network, precision]),
            lambda: next(takes[network, mode]),
            goal,
            memory_goal,
            share_of_peak=runs[network, precision][-1][1][part],
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
