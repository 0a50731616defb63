"""Predictions of nnU-Net v2 for checkpoints that say along which axes they may be mirrored, for tests/nnunet.rs.

The networks are those of make_golden.py, stored in f16 (which every f32 network can be loaded from exactly), with another
`inference_allowed_mirroring_axes` or none; nnU-Net's predictor predicts the phantoms with them, its sums in f32.

    pip install nnunetv2==2.8.1 nibabel
    python make_mirroring.py
"""

import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from make_golden import HERE, f32_sums
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

KEY = "inference_allowed_mirroring_axes"
# Name, network, axes; "missing": the key isn't there.
VARIANTS = [("two_axes", "3d_fullres", (2, 0)), ("none", "3d_fullres", None), ("one_axis_2d", "2d", (1,)),
            ("missing_2d", "2d", "missing")]


def predict(network, checkpoint, work):
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "out").mkdir()
    shutil.copy(HERE / network / "dataset.json", folder)
    shutil.copy(HERE / "plans.json", folder)
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    with f32_sums():
        predictor.predict_from_files_sequential(str(HERE / "images"), str(folder / "out"))
    return folder / "out"


def labels(path):
    return np.asarray(nibabel.load(path).dataobj)


def main():
    torch.set_num_threads(2)
    shutil.rmtree(HERE / "mirroring", ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        for name, network, axes in VARIANTS:
            checkpoint = torch.load(HERE / network / "checkpoint_final.pth", weights_only=False)
            checkpoint["network_weights"] = {k: v.half() for k, v in checkpoint["network_weights"].items()}
            every = predict(network, checkpoint, Path(work))
            found = {case: labels(every / f"{case}.nii.gz") for case in ("coarse", "small")}
            if axes == "missing":
                del checkpoint[KEY]
            else:
                checkpoint[KEY] = axes
            out = predict(network, checkpoint, Path(work))
            to = HERE / "mirroring" / name
            to.mkdir(parents=True)
            for case, mirrored in found.items():
                differ = (labels(out / f"{case}.nii.gz") != mirrored).mean()
                print(name, case, f"{differ:.2%} of the voxels are others without the axes that are missing")
                # What the test allows is a tenth of that.
                assert differ > 1e-3
                shutil.copy(out / f"{case}.nii.gz", to / f"{case}_f32.nii.gz")
            shutil.copy(HERE / network / "dataset.json", to)
            shutil.copy(Path(work) / "model" / "fold_0" / "checkpoint_final.pth", to)


if __name__ == "__main__":
    main()
