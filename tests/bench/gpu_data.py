"""Batches: samples augmented per second on the card and by nnU-Net's transforms on all cores; and how long training waits.

Training runs from NIfTI files on: phantoms of 160³ voxels through fingerprint, plan (recipe v2, patch and batch as
the first benchmark network has them) and preprocessing; the last epoch's share of waiting counts.
"""

import multiprocessing
import os
import re
import time

import numpy as np
import torch

from gpu_common import nnunet, options, ours, write

PATCHES = {"40×56×40": (40, 56, 40), "128×128×128": (128, 128, 128)}
ANGLE = (-np.pi / 6, np.pi / 6)


def transform(patch, seconds, ready, go):
    """Samples that nnU-Net's training transforms make in a process with one thread, from crops as its loader reads them."""
    torch.set_num_threads(1)
    trainer, sizes = nnunet(
        "training.nnUNetTrainer.nnUNetTrainer", "training.data_augmentation.compute_initial_patch_size"
    )[0]
    crop = [int(n) for n in sizes.get_patch_size(patch, ANGLE, ANGLE, ANGLE, (0.85, 1.25))]
    image = torch.rand(1, *crop)
    label = torch.randint(0, 3, (1, *crop), dtype=torch.int16)
    transforms = trainer.nnUNetTrainer.get_training_transforms(patch, ANGLE, None, (0, 1, 2), False)
    np.random.seed(os.getpid() % 2**31), torch.manual_seed(os.getpid())
    for _ in range(3):
        transforms(image=image.clone(), segmentation=label.clone())
    ready.release()
    go.wait()
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        transforms(image=image.clone(), segmentation=label.clone())
        count += 1
    return count / (time.perf_counter() - begun)


def work(rate, *arguments):
    rate.put(transform(*arguments))


def transforms_per_second(patch, seconds):
    """Of all cores together, a process each."""
    context = multiprocessing.get_context("fork")
    ready, go, rates = context.Semaphore(0), context.Event(), context.Queue()
    processes = [context.Process(target=work, args=(rates, patch, seconds, ready, go)) for _ in range(os.cpu_count())]
    for process in processes:
        process.start()
    for _ in processes:
        if not ready.acquire(timeout=60):
            raise RuntimeError("nnU-Net's transforms do not start")
    go.set()
    total = sum(rates.get(timeout=seconds + 60) for _ in processes)
    for process in processes:
        process.join()
    return total


def augmented_per_second(found):
    """Samples per second by what the example device_time says of itself: with all cases on the card, and with few of them."""
    rates = {}
    for memory in (4096, 64):
        arguments = ["v2", 1, "sim"] if found.rehearse else ["v2", memory, "cuda"]
        _, log, _ = ours(found, "device_time", *arguments)
        patch, cases, rate = re.search(r"patch \[([\d, ]+)\], cases (.*): ([\d.]+) samples/s", log).groups()
        rates[f"{patch.replace(', ', '×')}, cases {cases}"] = float(rate)
    return rates


def waiting(found):
    """What the last epoch of a training says: its seconds, and the share of them spent waiting for data."""
    data, out = found.work / "phantoms", found.work / "training"
    edge, cases, epochs, iterations = (24, 6, 2, 2) if found.rehearse else (160, 10, 3, 50)
    size = ["--shape", f"{edge},{edge},{edge}", "--spacing", "1,1,1"]
    ours(found, "nnu-phantom", "--training", cases, "--test", 0, *size, "--out", data)
    ours(found, "nnu-fingerprint", "--dataset", data, "--out", out / "fingerprint.toml")
    recipe = ["--recipe", "v2", "--set", "schedule.validation_iterations=1"]
    if found.rehearse:
        recipe += ["--set", "planning.base_features=4"]
    ours(found, "nnu-plan", "--fingerprint", out / "fingerprint.toml", *recipe, "--out", out / "plan.toml")
    chosen = ["--plan", out / "plan.toml", "--configuration", "3d_fullres"]
    ours(found, "nnu-preprocess", "--dataset", data, *chosen, "--out", out / "cases")
    training = ["--cases", out / "cases", *chosen, "--fold", 0, "--no-validation", "--out", out / "model"]
    length = ["--epochs", epochs, "--iterations", iterations]
    _, log, _ = ours(found, "nnu-train", *training, *length, device=True)
    spent, waited = re.findall(r"epoch .*? ([\d.]+) s, ([\d.]+) % waiting for data", log)[-1]
    described, _, _ = ours(found, "nnu-net", "describe", *chosen)
    return {
        "network": described.splitlines()[-1],
        "iterations": iterations,
        "seconds": float(spent),
        "waiting": float(waited) / 100,
    }


def part(results, name, call, save):
    """One of the three; if it fails the others still count."""
    try:
        results[name] = call()
    except Exception as error:
        results[name] = None
        results["failed"][name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {error!r}", flush=True)
    save()


def main():
    found = options(__doc__)
    results = {"failed": {}}
    save = lambda: write(found.json, results)
    # Processes are forked before the card is touched.
    for name, patch in PATCHES.items():
        patch = (16, 16, 16) if found.rehearse else patch
        seconds = 0.5 if found.rehearse else 6
        part(results, f"nnU-Net, {name}", lambda: transforms_per_second(patch, seconds), save)
    part(results, "augmented per second", lambda: augmented_per_second(found), save)
    part(results, "training", lambda: waiting(found), save)
    if results["failed"]:
        raise SystemExit(f"failed: {results['failed']}")


if __name__ == "__main__":
    main()
