"""`nnu-fingerprint` beside `nnUNetv2_extract_fingerprint`, whole processes, over data sets of --data.

Both read every image and label map. Ours also checks the data's integrity and counts every foreground voxel; nnU-Net's
draws 10⁸, equally many from each case.
"""

import json
import pathlib
import shutil
import sys
import tomllib

from common import compare, options, run
from datasets import datasets


def main():
    found = options(__doc__.splitlines()[0])
    if not found.data:
        sys.exit("fingerprint.py: left out, for it needs --data")
    for dataset in datasets(found.data, found.work):
        record = found.work / f"{dataset.name}.fingerprint.toml"

        def ours():
            record.unlink(missing_ok=True)
            command = [found.bin / "nnu-fingerprint", "--dataset", dataset.raw, "--out", record]
            return run([*command, "--threads", found.threads])

        def theirs():
            shutil.rmtree(dataset.preprocessed, ignore_errors=True)
            program = pathlib.Path(sys.executable).with_name("nnUNetv2_extract_fingerprint")
            return run([program, "-d", dataset.number, "-np", found.threads], dataset.folders)

        work = f"fingerprint: {dataset.title}"
        compare(found, f"fingerprint_{dataset.name}", work, "nnUNetv2_extract_fingerprint", ours, theirs, 20, 10)
        agree(record, dataset.preprocessed / "dataset_fingerprint.json")


def agree(ours, theirs):
    """Both must have measured the same; a sample's extremes lie within those of all voxels."""
    ours, theirs = tomllib.loads(ours.read_text()), json.loads(theirs.read_text())
    for case, shape, spacing in zip(ours["cases"], theirs["shapes_after_crop"], theirs["spacings"], strict=True):
        assert case["cropped_shape"] == shape, case
        assert all(abs(a - b) < 1e-4 * b for a, b in zip(case["spacing_mm"], spacing)), case
    for index, channel in enumerate(ours["channels"]):
        sample = theirs["foreground_intensity_properties_per_channel"][str(index)]
        whole = channel["per_case"]
        assert whole["min"] <= sample["min"] < sample["max"] <= whole["max"], channel


if __name__ == "__main__":
    main()
