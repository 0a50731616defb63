"""What nnU-Net's own evaluation, ensembling and determine_postprocessing make of small random volumes.

Run: python make_nnunet.py   (versions and seed in PROVENANCE.toml)
"""

import json
import multiprocessing
import os
import tempfile

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = tempfile.gettempdir()

import nibabel as nib
import numpy as np
from nnunetv2.ensembling.ensemble import average_probabilities
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

class Here:
    """The pool's place, without processes: the same functions, one after the other."""

    def Pool(self, _):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def starmap(self, function, arguments):
        return [function(*a) for a in arguments]


multiprocessing.get_context = lambda *_: Here()

rng = np.random.default_rng(5)
SHAPE = (3, 8, 8)
PLAIN = {"labels": {"background": 0, "left": 1, "right": 2}}
IGNORING = {"labels": {"background": 0, "left": 1, "right": 2, "ignore": 3}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
    "regions_class_order": [1, 2, 3],
}
PLANS = {"image_reader_writer": "NibabelIO", "label_manager": "LabelManager", "dataset_name": "x", "plans_name": "x"}


def maps(classes, ignore, noise, apart):
    """A reference of nested blobs, one per class, or side by side; a prediction with stray voxels."""
    z, y, x = np.indices(SHAPE)
    reference = np.zeros(SHAPE, int)
    for c in range(1, classes):
        centre = rng.uniform(1, 6, 2) if apart else (3.5, 3.5)
        reach = 2.2 if apart else 4.5 - c
        reference[np.abs(y - centre[0]) + np.abs(x - centre[1]) + z < reach] = c
    stray = rng.random(SHAPE) < noise
    prediction = np.where(stray, rng.integers(0, classes, SHAPE), reference)
    if ignore is not None:
        reference[rng.random(SHAPE) < 0.1] = ignore
    return reference, prediction


def digits(array):
    return "".join(map(str, array.ravel()))


def numbers(metrics):
    return {k: None if v != v else float(v) for k, v in metrics.items() if k in ("Dice", "IoU", "TP", "FP", "FN", "TN")}


def key(r):
    return list(map(int, r)) if isinstance(r, (tuple, list)) else [int(r)]


def dataset(description, classes, ignore, noise, apart):
    description = dict(description, file_ending=".nii.gz", channel_names={"0": "x"})
    manager = PlansManager(PLANS).get_label_manager(description)
    with tempfile.TemporaryDirectory() as root:
        folders = [os.path.join(root, n) for n in ("ref", "pred")]
        cases = []
        for folder in folders:
            os.mkdir(folder)
        for i in range(3):
            pair = maps(classes, ignore, noise, apart)
            for folder, array in zip(folders, pair):
                nib.save(nib.Nifti1Image(array.T.astype(np.uint8), np.eye(4)), f"{folder}/c{i}.nii.gz")
            cases.append({"reference": digits(pair[0]), "prediction": digits(pair[1])})
        fns, kwargs = determine_postprocessing(folders[1], folders[0], PLANS, description, 1)
        before = load_summary_json(f"{folders[1]}/summary.json")
        after = compute_metrics_on_folder(
            folders[0], f"{folders[1]}/postprocessed", None, PlansManager(PLANS).image_reader_writer_class(), ".nii.gz",
            list(before["mean"]), manager.ignore_label, 1)
        for i, case in enumerate(cases):
            image = nib.load(f"{folders[1]}/postprocessed/c{i}.nii.gz")
            case["postprocessed"] = digits(np.asarray(image.dataobj).T.astype(int))
            case["metrics"] = [numbers(m) for m in before["metric_per_case"][i]["metrics"].values()]
        steps = [kw["labels_or_regions"] for kw in kwargs]
        return {
            "classes": classes,
            "regions": [key(r) for r in before["mean"]] if manager.has_regions else [],
            "ignore": ignore,
            "cases": cases,
            "mean": [numbers(m) for m in before["mean"].values()],
            "foreground_mean": numbers(before["foreground_mean"]),
            "mean_after": [numbers(m)["Dice"] for m in after["mean"].values()],
            "steps": ["foreground" if isinstance(s, list) else key(s) for s in steps],
        }


def ensemble(description, outputs, members):
    description = dict(description, file_ending=".nii.gz", channel_names={"0": "x"})
    manager = PlansManager(PLANS).get_label_manager(description)
    shape = (outputs, 2, 5, 6)
    maps = []
    for _ in range(members):
        p = rng.random(shape)
        if not manager.has_regions:
            p /= p.sum(0)
        # Coarse steps, so that ties and exact halves occur.
        maps.append((np.round(p * 8) / 8 if members == 2 else p).astype(np.float16))
    with tempfile.TemporaryDirectory() as root:
        files = [f"{root}/{i}.npz" for i in range(members)]
        for file, p in zip(files, maps):
            np.savez(file, probabilities=p)
        mean = average_probabilities(files)
    assert mean.dtype == np.float32
    return {
        "regions": manager.has_regions,
        "shape": list(shape),
        "members": [p.view(np.uint16).ravel().tolist() for p in maps],
        "mean": mean.view(np.uint32).ravel().tolist(),
        "segmentation": digits(manager.convert_probabilities_to_segmentation(mean)),
    }


sets = []
for noise in (0.02, 0.06, 0.15):
    for apart in (False, True):
        sets.append(dataset(PLAIN, 3, None, noise, apart))
        sets.append(dataset(IGNORING, 3, 3, noise, apart))
        sets.append(dataset(REGIONS, 4, 4, noise, apart))
ensembles = [ensemble(d, n, m) for d, n in ((PLAIN, 3), (REGIONS, 3)) for m in (2, 3)]
print("steps:", [s["steps"] for s in sets])
with open("nnunet.json", "w") as out:
    json.dump({"sets": sets, "ensembles": ensembles}, out, separators=(",", ":"))
