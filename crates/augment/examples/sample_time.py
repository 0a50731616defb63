"""Milliseconds per sample of nnU-Net's own training transforms on one thread: python sample_time.py.

The counterpart of sample_time.rs: one channel, one label, 3D, the mixture of transforms with its probabilities. The
crop that nnU-Net's loader reads is 1.18 times enlarged for the rotation; reading it isn't timed.
"""

import time

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size


def main():
    torch.set_num_threads(1)
    for patch, samples in (((40, 56, 40), 100), ((128, 128, 128), 40)):
        angle = (-np.pi / 6, np.pi / 6)
        crop = [int(n) for n in get_patch_size(patch, angle, angle, angle, (0.85, 1.25))]
        z, y, x = np.ogrid[[slice(0, n) for n in crop]]
        image = torch.from_numpy(((z * 7 + y * 3 + x) % 101).astype(np.float32))[None]
        r = sum(((v / (n / 2)) - 1) ** 2 for v, n in zip((z, y, x), crop))
        label = torch.from_numpy(((r < 0.3).astype(np.int16) + (r < 0.1)).astype(np.int16))[None]
        transforms = nnUNetTrainer.get_training_transforms(patch, angle, None, (0, 1, 2), False)
        np.random.seed(1), torch.manual_seed(1)
        for _ in range(10):  # the blur tries its two ways first
            transforms(image=image.clone(), segmentation=label.clone())
        begun = time.process_time()
        for _ in range(samples):
            transforms(image=image.clone(), segmentation=label.clone())
        ms = 1000 * (time.process_time() - begun) / samples
        print(f"patch {list(patch)}: {ms:.1f} ms a sample, mean of {samples}")


if __name__ == "__main__":
    main()
