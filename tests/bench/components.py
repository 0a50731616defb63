"""Times connected components (26 neighbours) of a mask of 512x512x400 voxels against cc3d, both from memory to memory.

Two masks: smooth blobs of all sizes with a rough surface, as a network's output has them, and independent voxels at a
density of 0.1, where clusters are many and crooked. Two jobs on each: every voxel's number with the size of each component,
and the mask with nothing but the largest component. cc3d works on one thread; `--threads` is ours. That both agree is
asserted. Times are those of the job alone, memory that of the process: cc3d's holds the interpreter and NumPy.
"""

import cc3d
import numpy as np
from scipy import ndimage

from common import Measured, call, compare, options, run

SHAPE = (400, 512, 512)
MASKS = {"blobs": "smooth blobs", "noise": "independent voxels, density 0.1"}


def mask(name):
    rng = np.random.default_rng(0)
    if name == "noise":
        return rng.random(SHAPE, dtype=np.float32) < 0.1
    coarse = rng.normal(size=[n // 8 for n in SHAPE]).astype(np.float32)
    field = ndimage.zoom(ndimage.gaussian_filter(coarse, 1.0), 8, order=1)
    rough = ndimage.zoom(rng.normal(size=[n // 2 for n in SHAPE]).astype(np.float32), 2, order=0)
    return field + 0.02 * rough > 0.3


def number(values):
    labels = cc3d.connected_components(values, connectivity=26)
    return labels, cc3d.statistics(labels)["voxel_counts"]


def largest(values):
    labels, sizes = number(values)
    return labels == 1 + np.argmax(sizes[1:])


def main():
    opts = options(__doc__)
    for name, what in MASKS.items():
        values, source = mask(name), opts.work / f"components_{name}.npy"
        np.save(source, values.view(np.uint8))
        for job, function in (("number", number), ("largest", largest)):
            out = opts.work / "components_out.npy"

            def ours(extra=()):
                command = [opts.bin / "examples/components_time", job, source, opts.threads, *extra]
                found = run(command)
                wall, cpu = map(float, found.stdout.split())
                return Measured(wall, cpu, found.peak_bytes)

            ours([out])
            expected, found = function(values), np.load(out)
            expected = expected[0] if job == "number" else expected
            # Both number components by their first voxel.
            assert np.array_equal(found, expected), (name, job)
            del expected, found
            work = f"components of {'x'.join(map(str, SHAPE[::-1]))} voxels ({what}): {job}"
            theirs = lambda: call(lambda: function(values))
            compare(opts, f"components_{name}_{job}", work, "`cc3d`, one thread", ours, theirs, goal=1)


if __name__ == "__main__":
    main()
