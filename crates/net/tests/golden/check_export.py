#!/usr/bin/env python3
"""Whether nnU-Net takes back what nnu-net exports: every golden checkpoint through import and export, then into
nnU-Net's own classes.

    python check_export.py --bin target/release      # the folder of nnu-net and nnu-plan

For each: nnu-net import --extract, nnu-plan import, nnu-net import --model, nnu-net export; then
- nnUNetPredictor.initialize_from_trained_model_folder reads the folder (a strict load), and mirrors along the axes that the
  checkpoint said; also with other axes, or none, put into it;
- a fresh network loads the weights strictly and gives the logits of NAME.npz, relative error ≤ 1e-4;
- torch.load(weights_only=True) reads it, and nnU-Net's optimiser takes its state;
- the second import gives the same weights, byte for byte.
Exit code 1 and a line for whatever fails.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from make_checkpoint import FOLDER, network

CASES = {"plain": "3d_fullres", "plain_module": "3d_fullres", "residual": "2d"}
# Other axes of mirroring than the golden checkpoints', as trainers of nnU-Net leave them.
AXES = {"plain": (None, (0,), (2, 1)), "residual": (None, (1,))}


def run(*command):
    subprocess.run([str(c) for c in command], check=True)


def check(name, configuration, binaries, work, axes="as it is"):
    net, plan = binaries / "nnu-net", binaries / "nnu-plan"
    checkpoint = FOLDER / f"{name}.pth"
    if axes != "as it is":
        content = torch.load(checkpoint, weights_only=False)
        content["inference_allowed_mirroring_axes"] = axes
        checkpoint = work / "other_axes.pth"
        torch.save(content, checkpoint)
    run(net, "import", "--checkpoint", checkpoint, "--extract", work)
    plans, dataset = work / "plans.json", work / "dataset.json"
    run(plan, "import", "--plans", plans, "--dataset-json", dataset, "--out", work / "plan.toml")
    run(net, "import", "--checkpoint", checkpoint, "--plan", work / "plan.toml", "--model", work / "model")
    (work / "fold_3").mkdir()
    exported = work / "fold_3" / "checkpoint_final.pth"
    run(net, "export", "--model", work / "model", "--plans", plans, "--dataset-json", dataset, "--out", exported)
    run(
        net, "import", "--checkpoint", exported, "--plan", work / "plan.toml", "--configuration", configuration,
        "--out", work / "again.npz",
    )
    if (work / "again.npz").read_bytes() != (work / "model" / "weights.npz").read_bytes():
        raise ValueError("the second import gives other weights")

    torch.load(exported, weights_only=True)
    content = torch.load(exported, weights_only=False)
    original = torch.load(checkpoint, weights_only=False)
    if set(content) != set(original):
        raise ValueError(f"keys {sorted(content)}, expected {sorted(original)}")
    fresh = network(json.loads(plans.read_text()), configuration)
    fresh.load_state_dict(content["network_weights"], strict=True)
    torch.optim.SGD(fresh.parameters(), 1e-2, momentum=0.99, nesterov=True).load_state_dict(content["optimizer_state"])
    golden = numpy.load(FOLDER / f"{name.split('_')[0]}.npz")
    image = torch.from_numpy(golden["image"])
    with torch.no_grad():
        logits = fresh(image[:, :, 0] if configuration == "2d" else image)[0].numpy()
    expected = golden["logits"][:, :, 0] if configuration == "2d" else golden["logits"]
    error = abs(logits - expected).max() / abs(expected).max()
    if not error <= 1e-4:
        raise ValueError(f"logits differ by {error:.1e} of the largest one")

    predictor = nnUNetPredictor(device=torch.device("cpu"), verbose=False)
    predictor.initialize_from_trained_model_folder(str(work), (3,), "checkpoint_final.pth")
    expected = original["inference_allowed_mirroring_axes"]
    if predictor.allowed_mirroring_axes != (expected and tuple(sorted(expected))):
        raise ValueError(f"mirrors along {predictor.allowed_mirroring_axes}")
    return error


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of nnu-net and nnu-plan")
    binaries = parser.parse_args().bin.resolve()
    failed = False
    every = [(name, axes) for name in CASES for axes in ("as it is", *AXES.get(name, ()))]
    for name, axes in every:
        work = pathlib.Path(tempfile.mkdtemp())
        try:
            error = check(name, CASES[name], binaries, work, axes)
            print(f"{name}, mirroring {axes}: strict load, logits within {error:.1e}")
        except Exception as error:  # every fault of one case is a line
            print(f"{name}, mirroring {axes}: {error}")
            failed = True
        finally:
            shutil.rmtree(work)
    sys.exit(failed)


if __name__ == "__main__":
    main()
