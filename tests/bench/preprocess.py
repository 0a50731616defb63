"""`nnu-preprocess` beside `nnUNetv2_preprocess`, whole processes, configuration 3d_fullres of data sets of --data.

nnU-Net writes its arrays compressed, ours are plain `.npy` that training maps into memory; ours are hashed and synced to
the disk. Ours follows nnU-Net's own plan, imported; label maps must come out the same, images to the rounding of f32.
"""

import pathlib
import shutil
import sys
import tomllib

import numpy as np

from common import compare, options, run
from datasets import datasets

CONFIGURATION = "3d_fullres"


def main():
    found = options(__doc__.splitlines()[0])
    if not found.data:
        sys.exit("preprocess.py: left out, for it needs --data")
    programs = pathlib.Path(sys.executable).parent
    for dataset in datasets(found.data, found.work):
        plan = found.work / dataset.name / "plan.toml"
        run([programs / "nnUNetv2_extract_fingerprint", "-d", dataset.number, "-np", found.threads], dataset.folders)
        run([programs / "nnUNetv2_plan_experiment", "-d", dataset.number], dataset.folders)
        imported = ["--plans", dataset.preprocessed / "nnUNetPlans.json", "--dataset-json", dataset.raw / "dataset.json"]
        run([found.bin / "nnu-plan", "import", *imported, "--out", plan])
        cases, arrays = found.work / f"{dataset.name}.cases", dataset.preprocessed / f"nnUNetPlans_{CONFIGURATION}"

        def ours():
            shutil.rmtree(cases, ignore_errors=True)
            command = [found.bin / "nnu-preprocess", "--dataset", dataset.raw, "--plan", plan, "--out", cases]
            return run([*command, "--configuration", CONFIGURATION, "--threads", found.threads])

        def theirs():
            shutil.rmtree(arrays, ignore_errors=True)
            shutil.rmtree(dataset.preprocessed / "gt_segmentations", ignore_errors=True)
            command = [programs / "nnUNetv2_preprocess", "-d", dataset.number, "-c", CONFIGURATION]
            return run([*command, "-np", found.threads], dataset.folders)

        work = f"preprocess: {dataset.title}"
        compare(found, f"preprocess_{dataset.name}", work, "nnUNetv2_preprocess", ours, theirs, 10, 4)
        agree(cases, arrays)


def agree(cases, arrays):
    """Both must have made the same arrays."""
    import blosc2

    for record in sorted(cases.glob("*/case.toml")):
        name = tomllib.loads(record.read_text())["case"]["id"]
        label, image = (np.load(record.with_name(f"{what}.npy")) for what in ("label", "image"))
        theirs = blosc2.open(str(arrays / f"{name}_seg.b2nd"))[0]
        assert label.shape == theirs.shape, name
        # A tie of two labels may fall otherwise where the sums are rounded otherwise.
        different = np.count_nonzero(label != theirs)
        assert different <= 1e-6 * label.size, f"{name}: {different} of {label.size} labels differ"
        worst = np.abs(image - blosc2.open(str(arrays / f"{name}.b2nd"))[:]).max()
        # Their mean and standard deviation are summed in f32.
        assert worst < 1e-3, f"{name}: values differ by up to {worst}"


if __name__ == "__main__":
    main()
