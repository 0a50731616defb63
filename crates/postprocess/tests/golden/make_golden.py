"""Connected components by SciPy and scores by nnU-Net's formulas, for the tests beside this folder.

Run: python make_golden.py   (versions and seed in PROVENANCE.toml)
"""

import json

import numpy as np
import scipy.ndimage as nd

rng = np.random.default_rng(11)
volumes = []
for shape, share in [((6, 7, 8), 0.3), ((5, 9, 6), 0.12), ((1, 12, 11), 0.45), ((9, 1, 1), 0.6), ((8, 8, 8), 0.2)]:
    mask = rng.random(shape) < share
    labelled = {}
    for connectivity, rank in [(6, 1), (18, 2), (26, 3)]:
        numbers, count = nd.label(mask, nd.generate_binary_structure(3, rank))
        labelled[str(connectivity)] = {"count": int(count), "numbers": numbers.ravel().tolist()}
    volumes.append({"shape": list(shape), "mask": mask.astype(int).ravel().tolist(), "labelled": labelled})


def scores(reference, prediction, value):
    """Dice and IoU as nnunetv2/evaluation/evaluate_predictions.py defines them, written anew."""
    r, p = reference == value, prediction == value
    tp, fp, fn = int((r & p).sum()), int((~r & p).sum()), int((r & ~p).sum())
    tn = int((~r & ~p).sum())
    if tp + fp + fn == 0:
        return {"dice": None, "iou": None, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
    return {"dice": 2 * tp / (2 * tp + fp + fn), "iou": tp / (tp + fp + fn), "tp": tp, "fp": fp, "fn": fn, "tn": tn}


pairs = []
for present in [(0, 1, 2, 7), (0, 2), (0,)]:
    reference = rng.choice(present, (4, 6, 5))
    prediction = np.where(rng.random(reference.shape) < 0.7, reference, rng.choice(present, reference.shape))
    pairs.append({
        "shape": list(reference.shape),
        "reference": reference.ravel().tolist(),
        "prediction": prediction.ravel().tolist(),
        "scores": {str(v): scores(reference, prediction, v) for v in (1, 2, 7)},
    })

with open("golden.json", "w") as out:
    json.dump({"volumes": volumes, "pairs": pairs}, out, separators=(",", ":"))
