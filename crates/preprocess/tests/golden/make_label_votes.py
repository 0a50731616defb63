"""Makes labels/ and real_labels.json with nnU-Net's own function: python make_label_votes.py [SHARED_DATA]

Label maps on other grids by `resample_data_or_seg_to_shape` of nnU-Net v2, whose vote in planes and volumes is
batchgenerators' `resize_segmentation`. `labels/`: made-up maps in which three and more labels meet, and in which exact
ties are frequent. `real_labels.json` (with the folder of real data): what becomes of real maps of many labels, as counts
and as the sum of each label times its voxel's position in C order (mod 65521). Versions: labels/cases.toml.
"""

import json
import pathlib
import sys
from importlib.metadata import version

import numpy as np
import SimpleITK
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

HERE = pathlib.Path(__file__).parent
SEED = 20260125

# Ratios of old to new spacing: whole ones and their inverses put voxels exactly between others.
RATIOS = [0.25, 1 / 3, 0.5, 0.6, 2 / 3, 0.75, 0.9, 1.0, 1.1, 1.25, 4 / 3, 1.5, 1.7, 2.0, 3.0]
# Spacings, the last three with an axis that is resampled by itself, the one before with two equal coarse ones.
SPACINGS = [(1.0, 1.0, 1.0), (1.5, 1.2, 1.3), (4.0, 4.0, 1.0), (5.0, 1.0, 1.0), (1.0, 3.5, 1.0), (0.5, 0.5, 7.5)]
COUNT = 200

# Folder and label file, new spacing along z, y, x.
REAL = [
    ("Task04_Hippocampus/labelsTr/hippocampus_001.nii.gz", (0.75, 0.8, 1.3)),
    ("Task04_Hippocampus/labelsTr/hippocampus_003.nii.gz", (2.0, 2.0, 2.0)),
    ("freesurfer_256/labelsTr/*.nii.gz", (2.0, 2.0, 2.0)),
    ("freesurfer_256/labelsTr/*.nii.gz", (4.1, 1.3, 1.3)),
    ("totalseg_ct3mm/labelsTr/*.nii.gz", (2.3, 2.3, 2.3)),
    ("totalseg_ct3mm/labelsTr/*.nii.gz", (4.5, 4.5, 4.5)),
    ("totalseg_mr3mm/labelsTr/*.nii.gz", (2.0, 1.5, 4.0)),
    ("sct_t2s_aniso/labelsTr/*.nii.gz", (5.0, 0.6, 0.6)),
]


def resample(x, spacing, new_spacing, order, order_z):
    shape = np.maximum(compute_new_shape(x.shape, spacing, new_spacing), 1)
    out = resample_data_or_seg_to_shape(
        x[None], shape, spacing, new_spacing, is_seg=True, order=order, order_z=order_z, force_separate_z=None)
    return out[0]


def made_up(rng, kind, shape):
    labels = [np.array([0, 1, 2, 3]), np.array([-1, 0, 1, 2, 5]), np.arange(8), np.array([-1, 0, 130, 300, 7000])][rng.integers(4)]
    if kind == "noise":
        return rng.choice(labels, shape)
    if kind == "blocks":
        # Corners of eight blocks meet.
        x = rng.choice(labels, [-(-n // 2) for n in shape])
        for axis in range(3):
            x = x.repeat(2, axis)
        return x[tuple(slice(n) for n in shape)]
    # Regions around random points: edges of three, corners of four.
    points = rng.uniform(0, 1, (6, 3)) * shape
    at = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    nearest = ((at[..., None, :] - points) ** 2).sum(-1).argmin(-1)
    return rng.choice(labels, len(points))[nearest]


def main():
    rng = np.random.default_rng(SEED)
    lines = ["# Written by make_label_votes.py.", f"seed = {SEED}", "", "[with]"]
    lines += [f'{name} = "{version(name)}"' for name in
              ("nnunetv2", "batchgenerators", "numpy", "scipy", "scikit-image")]
    sources, results = [], []
    for index in range(COUNT):
        shape = tuple(int(n) for n in rng.integers(1, 11, 3))
        spacing = SPACINGS[rng.integers(len(SPACINGS))]
        new_spacing = tuple(float(s * RATIOS[i]) for s, i in zip(spacing, rng.integers(0, len(RATIOS), 3)))
        order, order_z = int(rng.random() < 0.8), int(rng.random() < 0.4)
        x = made_up(rng, ("noise", "blocks", "regions")[index % 3], shape).astype(np.int16)
        y = resample(x, spacing, new_spacing, order, order_z)
        sources.append(x.ravel())
        results.append(y.ravel())
        lines += ["", "[[label]]", f"shape = {list(shape)}", f"new_shape = {list(y.shape)}",
                  f"spacing_mm = {list(spacing)}", f"new_spacing_mm = {list(new_spacing)}",
                  f"order = {order}", f"coarse_order = {order_z}"]
    (HERE / "labels").mkdir(exist_ok=True)
    # All maps one after the other.
    np.save(HERE / "labels/in.npy", np.concatenate(sources))
    np.save(HERE / "labels/out.npy", np.concatenate(results))
    (HERE / "labels/cases.toml").write_text("\n".join(lines) + "\n")
    if len(sys.argv) > 1:
        real(pathlib.Path(sys.argv[1]))


def real(data):
    found = []
    for pattern, new_spacing in REAL:
        [path] = sorted(data.glob(pattern))
        image = SimpleITK.ReadImage(str(path))
        x = SimpleITK.GetArrayFromImage(image).astype(np.int16)
        spacing = image.GetSpacing()[::-1]
        y = resample(x, spacing, new_spacing, 1, 0)
        labels, counts = np.unique(y, return_counts=True)
        found.append({
            "label": str(path.relative_to(data)), "new_spacing_mm": new_spacing, "shape": y.shape,
            "moment": int((y.ravel().astype(np.int64) * (np.arange(y.size) % 65521)).sum()),
            "voxels": {int(l): int(c) for l, c in zip(labels, counts)},
        })
        print(path.name, y.shape, len(labels))
    # One map a line.
    text = "[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n"
    (HERE / "real_labels.json").write_text(text)


if __name__ == "__main__":
    main()
