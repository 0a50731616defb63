"""Whole-volume prediction, from an image file to a written segmentation: nnu-infer beside nnU-Net's predictor, same weights.

A CT-like volume of 256³ voxels, 3 classes, plain U-Net with six stages of 32 … 320 features, patches of 128³ at half steps,
no mirroring, drawn weights, on the CPU. nnU-Net runs in its leanest form: one process reads, predicts and writes, in float32.
Both sides are timed from the start of their program; nnu-infer once per precision, nnU-Net once for all of them. Also:
- a small volume with a small patch, for quick turns;
- a finer image of the same network: both sides bring it to the plan's grid and the prediction back.
"""

import itertools
import re
import sys

import torch
from common import compare, options, precisions, run
from gpu_inference import agreement, models, nifti, phantom

FEATURES = [32, 64, 128, 256, 320, 320]
SPACING = (1.0, 0.75, 0.75)
PREDICTOR = """
import sys, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
threads, model, images, out = sys.argv[1:]
torch.set_num_threads(int(threads))
predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(model, (0,), "checkpoint_final.pth")
predictor.predict_from_files_sequential(images, out)
"""
PRECISIONS = ["f32", "f32-fast", "bf16"]
CASES = {
    # name: patch, voxels of the image, how much finer it is than the plan's grid, precisions, goal for memory, runs
    "predict_small": ((64,) * 3, (128,) * 3, 1.0, PRECISIONS, None, None),
    "predict_finer": ((64,) * 3, (256,) * 3, 2.0, ["f32-fast"], None, 2),
    "predict": ((128,) * 3, (256,) * 3, 1.0, PRECISIONS, 3, 1),
}
GOAL = 4


def case(found, name, patch, shape, finer, precisions, memory_goal, runs):
    work = found.work / name
    torch.manual_seed(0)
    _, _, model = models(found, work / "nnunet", {"features": FEATURES, "patch": patch, "shape": shape})
    source = work / "images" / "case_0000.nii.gz"
    nifti(source, phantom(shape), [s / finer for s in SPACING])
    (work / "theirs").mkdir(exist_ok=True)
    result, measured = {}, []

    def ours(precision):
        command = [found.bin / "nnu-infer", "--model", model, "--images", source.parent, "--out", work / precision]
        command += ["--no-mirroring", "--device", "cpu", "--precision", precision, "--threads", found.threads, "--force"]
        result[precision] = run(command)
        return result[precision]

    def theirs():
        command = [sys.executable, "-c", PREDICTOR, found.threads, work / "nnunet", source.parent, work / "theirs"]
        folders = {name: work for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        return run(command, env={**folders, "OMP_NUM_THREADS": found.threads})

    text = f"prediction of {'×'.join(map(str, shape))} voxels, patch {'×'.join(map(str, patch))}"
    text += f", image {finer:g} times finer than the plan's grid" * (finer != 1)
    for precision in precisions:
        # The first precision's runs of theirs serve the others.
        turns = itertools.count()

        def once():
            turn = next(turns)
            if turn == len(measured):
                measured.append(theirs())
            return measured[turn]

        row, what = f"{name}_{precision.replace('-', '_')}", f"{text}, {precision}"
        against = "nnU-Net's predictor (PyTorch, CPU)"
        compare(found, row, what, against, lambda: ours(precision), once, GOAL, memory_goal, runs)
        # nnU-Net sums in float16, and drawn weights leave many voxels nearly undecided.
        same = agreement(work / precision / "case/segmentation.nii.gz", work / "theirs/case.nii.gz")
        log = result[precision].stderr
        network = int(re.search(r"network (\d+) ms", log)[1]) / 1000
        announced = re.search(r"about (\d+) MB", log)[1]
        print(f"{row} {same['voxels']:.3%} of voxels have the same label; of nnu-infer's {result[precision].wall:.2f} s")
        print(f"{row} the sliding window took {network:.2f} s; it had announced {announced} MB", flush=True)


def main():
    found = options(__doc__)
    found.device = torch.device("cpu")
    here = precisions(found)
    for name, (patch, shape, finer, wanted, memory_goal, runs) in CASES.items():
        if wanted := [precision for precision in wanted if precision in here]:
            case(found, name, patch, shape, finer, wanted, memory_goal, runs)


if __name__ == "__main__":
    main()
