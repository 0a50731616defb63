"""Times augmentation against batchgeneratorsv2: patches of 128^3 voxels from a case of 205^3, one channel, one label.

205^3 is what nnU-Net's loader cuts out for such patches. `all` is recipe v2 against the transforms that nnU-Net's trainer
composes, with its probabilities, on one and on two cores (nnU-Net: processes of one thread, as its trainer has them; ours:
threads). Then each transform alone, with probability 1, on one core. Ours draws a patch from the memory-mapped case and
writes it into a batch; theirs transforms a copy of the whole case, which stands for what its loader cuts out. Seconds are those
of the work alone, without start and import; memory is that of all processes.
"""

import os
import sys

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy import ndimage

from common import Measured, call, compare, options, run

PATCH, CASE, SAMPLES, SAMPLES_ALONE = (128,) * 3, 205, 48, 8
# In the order of nnU-Net's list.
ALONE = ("spatial", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma", "mirror")


def write(folder):
    """A body with two organs, and tissue of several frequencies and noise."""
    rng = np.random.default_rng(0)
    zoomed = lambda n: ndimage.zoom(rng.normal(size=[n] * 3), CASE / n, order=1).astype(np.float32)
    place = np.linspace(-1, 1, CASE, dtype=np.float32)
    radius = place[:, None, None] ** 2 + place[:, None] ** 2 + place**2 + 0.15 * zoomed(8)
    label = (radius < 0.5).astype(np.int16) + (radius < 0.15)
    image = label + 0.3 * zoomed(20) + 0.1 * rng.normal(size=[CASE] * 3).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "image.npy", image.astype(np.float32))
    np.save(folder / "label.npy", label)
    return torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(label)[None]


def transforms(name):
    """nnU-Net's composition, or one transform of it that fires for certain."""
    angle = (-np.pi / 6, np.pi / 6)
    composed = nnUNetTrainer.get_training_transforms(PATCH, angle, None, (0, 1, 2), False)
    if name == "all":
        return composed
    random = [t for t in composed.transforms if isinstance(t, RandomTransform)]
    for transform in composed.transforms:
        if isinstance(transform, SpatialTransform):
            transform.p_rotation = transform.p_scaling = float(name == "spatial")
    for transform, its_name in zip(random, ALONE[1:-1], strict=True):
        transform.apply_probability = float(its_name == name)
        transform.transform.p_per_channel = 1
    composed.transforms = [t for t in composed.transforms if name == "mirror" or not isinstance(t, MirrorTransform)]
    return composed


def augment(compose, image, label, seed, samples):
    np.random.seed(seed), torch.manual_seed(seed)
    for _ in range(samples):
        compose(image=image.clone(), segmentation=label.clone())


def in_processes(count, work):
    children = []
    for seed in range(count):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                work(seed)
                os._exit(0)
            finally:
                os._exit(1)
    for child in children:
        if os.waitpid(child, 0)[1]:
            sys.exit("a process failed")


def main():
    opts = options(__doc__)
    folder = opts.work / "augment"
    image, label = write(folder)
    torch.set_num_threads(1)

    def row(name, threads, samples, goal):
        compose = transforms(name)
        augment(compose, image, label, 0, 6)  # the blur tries its two ways first

        def ours():
            found = run([opts.bin / "examples/augment_time", folder, threads, samples, name])
            wall, cpu = map(float, found.stdout.split())
            return Measured(wall, cpu, found.peak_bytes)

        def theirs():
            work = lambda seed: augment(compose, image, label, seed, samples // threads)
            return call(lambda: in_processes(threads, work))

        what = "recipe v2" if name == "all" else f"`{name}` alone"
        cores = "1 core" if threads == 1 else f"{threads} cores"
        title = f"augment {samples} patches of 128³ from 205³, {what}, {cores}"
        compare(opts, f"augment_{name}_{threads}", title, "batchgeneratorsv2", ours, theirs, goal)

    for threads in sorted({1, opts.threads}):
        row("all", threads, SAMPLES, 5)
    for name in ALONE:
        row(name, 1, SAMPLES_ALONE, None)


if __name__ == "__main__":
    main()
