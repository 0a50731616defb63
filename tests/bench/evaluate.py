"""Times the evaluation of 60 predictions against nnU-Net's: whole programs, from .nii.gz files to a file of scores.

Label maps of 160x256x256 voxels with three labels, of the size and smoothness of organs. Both sides read, decompress and
compare all 120 files with the same number of threads or processes; nnU-Net's program also has to import PyTorch, ours hashes
its inputs. That both find the same numbers is asserted.
"""

import json
import sys
import tomllib

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from common import compare, options, run

CASES, SHAPE, LABELS = 60, (160, 256, 256), (1, 2, 3)


def maps(rng):
    """A reference of three nested, lumpy bodies, and a prediction that errs along their surfaces."""
    lumps = lambda: ndimage.zoom(rng.normal(size=[n // 16 for n in SHAPE]), 16, order=1).astype(np.float32)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE)
    centre = rng.uniform(-0.2, 0.2, 3)
    distance = (z - centre[0])[:, None, None] ** 2 + (y - centre[1])[:, None] ** 2 + (x - centre[2]) ** 2
    surface = distance + 0.06 * lumps()
    bands = lambda field: sum((field < limit).astype(np.uint8) for limit in (0.35, 0.15, 0.05))
    return bands(surface), bands(surface + 0.01 * lumps())


def write(folder):
    rng = np.random.default_rng(0)
    for case in range(CASES):
        for side, values in zip(("reference", "predicted"), maps(rng)):
            (folder / side).mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(values)
            image.SetSpacing((0.8, 0.8, 1.5))
            sitk.WriteImage(image, str(folder / side / f"case_{case:03}.nii.gz"), useCompression=True)


def assert_same(ours, theirs):
    ours, theirs = tomllib.loads(ours.read_text()), json.loads(theirs.read_text())
    found = dict(zip(LABELS, ours["mean"]["dice"]))
    for label, scores in theirs["mean"].items():
        assert abs(found[int(label)] - scores["Dice"]) < 1e-9, (label, found, scores)


def main():
    opts = options(__doc__)
    folder = opts.work / "evaluate"
    write(folder)
    reference, predicted = folder / "reference", folder / "predicted"
    ours_out, theirs_out = folder / "summary.toml", folder / "summary.json"

    def ours():
        for old in folder.glob("summary.*"):
            old.unlink()
        command = [opts.bin / "nnu-postprocess", "evaluate", "--predictions", predicted, "--labels", reference]
        return run([*command, "--out", ours_out, "--threads", opts.threads])

    def theirs():
        program = "from nnunetv2.evaluation.evaluate_predictions import evaluate_simple_entry_point as run; run()"
        command = [reference, predicted, "-l", *LABELS, "-np", opts.threads, "-o", theirs_out]
        found = run([sys.executable, "-c", program, *command])
        assert_same(ours_out, theirs_out)
        return found

    work = f"evaluate {CASES} cases of {'x'.join(map(str, SHAPE))} voxels, {len(LABELS)} labels, .nii.gz"
    compare(opts, "evaluate", work, "`nnUNetv2_evaluate_simple`", ours, theirs, goal=5)


if __name__ == "__main__":
    main()
