"""Plans of nnU-Net's own planners for made-up fingerprints: planner.json.

Run: python make_planner.py OUT (needs nnunetv2 and its requirements; versions in PROVENANCE.toml).

Each data set is a few cases with random spacings and shapes. Of each plan only what a planner decides is kept, in the
words of plans.json.
"""

import contextlib
import io
import json
import os
import random
import sys
import tempfile

SEED = 20260727
root = tempfile.mkdtemp()
for name in ("raw", "preprocessed", "results"):
    os.environ["nnUNet_" + name] = os.path.join(root, name)
    os.makedirs(os.environ["nnUNet_" + name])

from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as default  # noqa: E402
from nnunetv2.experiment_planning.experiment_planners.residual_unets import (  # noqa: E402
    residual_encoder_unet_planners as residual,
)
from nnunetv2.utilities.json_export import recursive_fix_for_json_export  # noqa: E402

PLANNERS = {
    "v2": default.ExperimentPlanner,
    "v2-resenc": residual.ResEncUNetPlanner,
    "v2-resenc-m": residual.nnUNetPlannerResEncM,
    "v2-resenc-l": residual.nnUNetPlannerResEncL,
    "v2-resenc-xl": residual.nnUNetPlannerResEncXL,
}
draw = random.Random(SEED)

LABELS = [
    {"background": 0, "a": 1},
    {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5},
    {"background": 0, "a": 1, "b": 2, "ignore": 3},
    {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
    {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
]
CHANNELS = [["CT"], ["MRI"], ["T1", "T2", "FLAIR", "T1Gd"], ["CT", "PET"], ["noNorm", "zscore"],
            ["rescale_to_0_1"], ["R", "rgb_to_0_1", "B"]]


def jitter(value, by):
    return value * draw.uniform(1 - by, 1 + by)


def volumes():
    """Spacing and shape of a typical case."""
    kind = draw.choice(["small", "cube", "coarse", "coarse", "large", "long", "thin", "tie"])
    if kind == "small":
        return [1.0] * 3, [draw.randint(10, 60) for _ in range(3)], 0.05
    if kind == "cube":
        return [draw.uniform(0.5, 1.5)] * 3, [draw.randint(90, 260) for _ in range(3)], 0.1
    if kind == "coarse":
        fine = draw.uniform(0.3, 1.2)
        return [draw.uniform(2, 10), fine, fine], [draw.randint(8, 40), *[draw.randint(150, 520)] * 2], 0.15
    if kind == "large":
        fine = draw.uniform(0.4, 0.9)
        return [draw.uniform(0.5, 3), fine, fine], [draw.randint(80, 700), 512, 512], 0.1
    if kind == "long":
        return [draw.uniform(0.7, 3) for _ in range(3)], [draw.randint(40, 900), draw.randint(60, 300), 128], 0.1
    if kind == "thin":
        return [draw.uniform(3, 9), 0.6, 0.7], [draw.randint(2, 9), draw.randint(200, 400), 300], 0.3
    return [2.0, 2.0, 2.0], [160, 160, 160], 0.0


def dataset(i):
    """A fingerprint and a dataset.json."""
    flat = i % 6 == 0
    if flat:
        wide = draw.choice([1.0, 0.3])
        spacing, shape, by = [999.0 if wide == 1.0 else wide * 999, wide, wide], [1, *[draw.randint(60, 1500) for _ in range(2)]], 0.1
    else:
        spacing, shape, by = volumes()
    turn = [0, 1, 2] if flat else draw.choice([[0, 1, 2], [0, 1, 2], [1, 0, 2], [2, 1, 0]])
    cases = draw.randint(3, 12)
    spacings, shapes = [], []
    for _ in range(cases):
        same = draw.random() < 0.3
        s = spacing if same or flat else [round(jitter(x, by), draw.choice([1, 3, 6, 15])) for x in spacing]
        n = [1 if x == 1 else max(1, round(jitter(x, by))) for x in shape]
        spacings.append([s[axis] for axis in turn])
        shapes.append([n[axis] for axis in turn])
    channels = draw.choice(CHANNELS)
    numbers = {"max": 9.0, "mean": 1.5, "median": 1.0, "min": -3.0, "percentile_00_5": -2.0,
               "percentile_99_5": 8.0, "std": 2.0}
    fingerprint = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {str(c): numbers for c in range(len(channels))},
        "median_relative_size_after_cropping": draw.choice([1.0, 0.75, 0.7499, 0.3]),
    }
    labels = draw.choice(LABELS)
    described = {
        "channel_names": {str(c): name for c, name in enumerate(channels)},
        "labels": labels,
        "numTraining": draw.choice([cases, cases, draw.randint(1, 900)]),
        "file_ending": draw.choice([".png", ".bmp", ".tif"]) if flat else draw.choice([".nii.gz", ".nii", ".mha"]),
    }
    if any(isinstance(v, list) for v in labels.values()):
        regions = [v for k, v in labels.items() if k not in ("background", "ignore")]
        described["regions_class_order"] = list(range(1, len(regions) + 1))
    if i % 9 == 4:
        described["overwrite_image_reader_writer"] = "NibabelIOWithReorient"
    return fingerprint, described


def decided(plans):
    """What a planner decides, without what is the same everywhere."""
    kept = {key: plans[key] for key in (
        "plans_name", "original_median_spacing_after_transp", "original_median_shape_after_transp",
        "image_reader_writer", "transpose_forward", "transpose_backward", "experiment_planner_used")}
    kept["configurations"] = {}
    for name, c in plans["configurations"].items():
        c = {k: v for k, v in c.items() if not k.startswith("resampling_fn") and k != "preprocessor_name"}
        if "architecture" in c:
            architecture = c.pop("architecture")
            kwargs = architecture["arch_kwargs"]
            c["network_class_name"] = architecture["network_class_name"].rsplit(".")[-1]
            for key in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage",
                        "n_blocks_per_stage", "n_conv_per_stage_decoder"):
                if key in kwargs:
                    c[key] = kwargs[key]
        kept["configurations"][name] = c
    return kept


def planned(i, recipe, memory, fingerprint, described):
    name = f"Dataset{i + 1:03}_Numbers"
    raw = os.path.join(os.environ["nnUNet_raw"], name)
    folder = os.path.join(os.environ["nnUNet_preprocessed"], name)
    for path in (raw, folder):
        os.makedirs(path, exist_ok=True)
    with open(os.path.join(raw, "dataset.json"), "w") as f:
        json.dump({**described, "dataset": {"case": {"images": ["case"], "label": "case"}}}, f)
    with open(os.path.join(folder, "dataset_fingerprint.json"), "w") as f:
        json.dump(fingerprint, f)
    # There are no images to try a reader on.
    default.determine_reader_writer_from_dataset_json = (
        lambda content, example: original(content, None, verbose=False))
    plans_file = os.path.join(folder, PLANNERS[recipe](name).plans_identifier + ".json")
    if os.path.exists(plans_file):
        os.remove(plans_file)
    arguments = {} if memory is None else {"gpu_memory_target_in_gb": memory}
    with contextlib.redirect_stdout(io.StringIO()):
        plans = PLANNERS[recipe](name, **arguments).plan_experiment()
    recursive_fix_for_json_export(plans)
    return decided(json.loads(json.dumps(plans)))


original = default.determine_reader_writer_from_dataset_json
if __name__ == "__main__":
    rows = []
    for i in range(36):
        fingerprint, described = dataset(i)
        recipe = list(PLANNERS)[0 if i % 3 else (i // 3) % 5]
        memory = draw.choice([None, None, 2, 4, 11, 24]) if recipe == "v2" else None
        expected = planned(i, recipe, memory, fingerprint, described)
        rows.append({"recipe": recipe, "gpu_memory": memory, "fingerprint": fingerprint,
                     "dataset": described, "plans": expected})

    # One row a line, so that a change shows.
    with open(sys.argv[1], "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
