"""Resampling of 150×512×512 voxels from 1×0.7×0.7 to 0.8 mm beside nnU-Net's functions: an image, a map of four labels.

Only the call is timed on both sides, on the same arrays. nnU-Net resamples an image on one core. Memory is that of the
whole process, which on nnU-Net's side includes the libraries.
"""

import re

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

from common import call, compare, options, run

SHAPE, FROM, TO = (150, 512, 512), (1.0, 0.7, 0.7), (0.8, 0.8, 0.8)


def main():
    found = options(__doc__.splitlines()[0])
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    noise = (z * 7919 + y * 104729 + x * 1299709) % 1009
    image = (300 * np.sin(z / 7.5) * np.sin(y / 25.6) * np.sin(x / 25.6) + noise).astype(np.float32)
    radius = np.sqrt((3 * z - 240) ** 2 + (y - 240) ** 2 + (x - 240) ** 2)
    label = np.array([3, 2, 1, 0], np.int16)[np.minimum(radius / 60, 3).astype(int)]
    del noise, radius
    work = "×".join(map(str, SHAPE)) + " voxels resampled"
    one(found, "image", image, f"{work}, order 3", 3)
    one(found, "label", label, f"{work}, label map of 4", 1)


def one(found, kind, array, work, order):
    source, target, expected = (found.work / f"resample_{kind}_{what}.npy" for what in ("in", "ours", "theirs"))
    np.save(source, array)
    program = found.bin / "examples/resample_speed"

    def ours():
        done = run([program, kind, source, target], {"RAYON_NUM_THREADS": found.threads})
        done.wall, done.cpu = map(float, re.fullmatch(r"([\d.]+) s wall, ([\d.]+) s CPU\n", done.stdout).groups())
        return done

    def theirs():
        shape = compute_new_shape(SHAPE, FROM, TO)
        settings = {"is_seg": kind == "label", "order": order, "order_z": 0, "force_separate_z": None}
        resample = lambda: resample_data_or_seg_to_shape(array[None], shape, FROM, TO, **settings)
        return call(resample, lambda out: np.save(expected, out[0]))

    compare(found, f"resample_{kind}", work, "nnU-Net's resample_data_or_seg", ours, theirs, 25)
    ours_out, theirs_out = np.load(target), np.load(expected)
    if kind == "image":
        # Both are rounded once to f32, after other sums in f64.
        assert np.abs(ours_out - theirs_out).max() <= np.spacing(np.abs(array).max())
    else:
        assert np.array_equal(ours_out, theirs_out)


if __name__ == "__main__":
    main()
