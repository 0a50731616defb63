"""Times a training iteration in PyTorch (float32) and in nnu-net by turns, and prints the ratio.

Network: 4 stages of 32, 64, 128, 256 features, two convolutions each, instance norm, leaky ReLU; patch 40x56x40, batch 9,
3 classes; forward, Dice + cross-entropy, backward, Adam with AMSGrad. Wall time and CPU time (all threads) of one iteration;
on a busy machine the latter is the fairer figure.
"""

import re
import resource
import subprocess
import sys
import time

import torch

from unet import UNet, dice_and_cross_entropy

FEATURES, PATCH, BATCH, CLASSES, THREADS, ROUNDS = (32, 64, 128, 256), (40, 56, 40), 9, 3, 2, 3


def pytorch():
    """(wall, cpu) seconds of an iteration and peak memory in GB, as a function to call again and again."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    net = UNet(FEATURES, classes=CLASSES)
    optimiser = torch.optim.Adam(net.parameters(), 3e-4, weight_decay=3e-5, amsgrad=True)
    image = torch.rand(BATCH, 1, *PATCH) * 2 - 1
    target = torch.randint(0, CLASSES, (BATCH, *PATCH))

    def iterate():
        wall, cpu = time.perf_counter(), time.process_time()
        optimiser.zero_grad()
        dice_and_cross_entropy(net(image), target).backward()
        optimiser.step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return time.perf_counter() - wall, time.process_time() - cpu, peak

    iterate()
    return iterate


def ours(binary):
    """(wall, cpu) seconds of an iteration of nnu-net and its peak memory in GB, from its own report."""
    command = [binary, "bench", "--features", ",".join(map(str, FEATURES)), "--patch", ",".join(map(str, PATCH))]
    command += ["--batch", str(BATCH), "--classes", str(CLASSES), "--threads", str(THREADS), "--repetitions", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"training iteration: ([\d.]+) s \(([\d.]+) s of CPU\)", done.stdout)
    # Not from getrusage: a child starts with the resident memory of this process.
    memory = re.search(r"peak memory (\d+) MB", done.stderr)
    return float(found[1]), float(found[2]), float(memory[1]) / 1e3


def main():
    iterate = pytorch()
    times = {"pytorch": [], "nnu-net": []}
    for _ in range(ROUNDS):
        times["pytorch"].append(iterate())
        times["nnu-net"].append(ours(sys.argv[1]))
    median = {name: [sorted(column)[ROUNDS // 2] for column in zip(*rows)] for name, rows in times.items()}
    for name, (wall, cpu, peak) in median.items():
        print(f"{name:8} {wall:7.2f} s wall {cpu:7.2f} s CPU {peak:5.1f} GB, per training iteration (median of {ROUNDS})")
    wall, cpu = (median["nnu-net"][i] / median["pytorch"][i] for i in range(2))
    print(f"nnu-net / pytorch: {wall:.2f} of the wall time, {cpu:.2f} of the CPU time")


if __name__ == "__main__":
    main()
