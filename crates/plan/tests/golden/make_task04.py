"""What nnU-Net's planners make of Task04_Hippocampus as it lies in shared/data: task04.json.

Run: python make_task04.py shared/data/Task04_Hippocampus OUT (versions in PROVENANCE.toml). Spacings and shapes come from
nnU-Net's own reader and its crop to the nonzero region; intensities don't enter the plans and are left at 0.
"""

import json
import os
import sys

import make_planner as made
import numpy as np
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

folder, out = sys.argv[1:3]
spacings, shapes, sizes = [], [], []
for name in sorted(os.listdir(os.path.join(folder, "imagesTr"))):
    if name.endswith(".nii.gz") and not name.startswith("."):
        data, properties = SimpleITKIO().read_images((os.path.join(folder, "imagesTr", name),))
        cropped, _, _ = crop_to_nonzero(data)
        spacings.append([float(s) for s in properties["spacing"]])
        shapes.append([int(n) for n in cropped.shape[1:]])
        sizes.append(np.prod(cropped.shape) / np.prod(data.shape))
numbers = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 0.0)
fingerprint = {
    "spacings": spacings,
    "shapes_after_crop": shapes,
    "foreground_intensity_properties_per_channel": {"0": numbers},
    "median_relative_size_after_cropping": float(np.median(sizes)),
}
described = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
    "numTraining": len(shapes),
    "file_ending": ".nii.gz",
}
plans = {recipe: made.planned(0, recipe, None, fingerprint, described) for recipe in made.PLANNERS}
with open(out, "w") as f:
    json.dump({"cases": len(shapes), "plans": plans}, f)
    f.write("\n")
