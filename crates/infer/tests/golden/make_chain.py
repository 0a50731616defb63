"""Makes chain/: both stages of a cascade by nnU-Net v2's own predictor, one after the other: python make_chain.py

The checkpoints are those of make_golden.py: the one of 3d_fullres as first stage on a coarser grid, then that of
3d_cascade_fullres with the first one's label maps as files. chain/plans.json has the coarser grid; chain/CASE.nii.gz and
chain/CASE_f32.nii.gz are the second stage's maps, with sums in f16 and in f32 throughout. Versions: PROVENANCE.toml.
"""

import json
import shutil
import tempfile
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from make_golden import HERE, f32_sums

COARSER = [4.2, 2.3, 2.1]
STAGES = {"3d_lowres": "3d_fullres", "3d_cascade_fullres": "3d_cascade_fullres"}


def main():
    torch.set_num_threads(2)
    plans = json.loads((HERE / "plans.json").read_text())
    plans["configurations"]["3d_lowres"]["spacing"] = COARSER
    out = HERE / "chain"
    out.mkdir(exist_ok=True)
    (out / "plans.json").write_text(json.dumps(plans, indent=1))
    work = Path(tempfile.mkdtemp())
    predictors = {}
    for stage, source in STAGES.items():
        folder = work / stage
        (folder / "fold_0").mkdir(parents=True)
        shutil.copy(out / "plans.json", folder)
        shutil.copy(HERE / source / "dataset.json", folder)
        content = torch.load(HERE / source / "checkpoint_final.pth", weights_only=False)
        content["init_args"] = {"configuration": stage}
        torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
        predictors[stage] = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictors[stage].initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    for ending in ("", "_f32"):
        previous = None
        for stage, predictor in predictors.items():
            predicted = work / f"{stage}_predicted{ending}"
            predicted.mkdir()
            with f32_sums() if ending else nullcontext():
                predictor.predict_from_files_sequential(
                    str(HERE / "images"), str(predicted), folder_with_segs_from_prev_stage=previous)
            previous = str(predicted)
        for path in sorted(predicted.glob("*.nii.gz")):
            counts = np.bincount(np.asarray(nibabel.load(path).dataobj).ravel(), minlength=3)
            print(path.name, ending, counts)
            assert (counts > 0).all(), "every label should occur"
            shutil.copy(path, out / path.name.replace(".nii.gz", f"{ending}.nii.gz"))
    shutil.rmtree(work)
    names = ("nnunetv2", "batchgenerators", "torch", "numpy", "scipy", "scikit-image")
    lines = ["# Written by make_chain.py.", "[with]"] + [f'{n} = "{version(n)}"' for n in names]
    (out / "PROVENANCE.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
