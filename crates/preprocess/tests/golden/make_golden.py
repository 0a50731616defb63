"""Makes the golden arrays of this folder: python make_golden.py

Resampling is scikit-image's and scipy's, the vote by largest weight batchgenerators'; which axis is treated separately,
how label maps vote by halves and how intensities are normalised is written out here from nnU-Net's published rules.
Everything in float64. Versions: PROVENANCE.toml. nnU-Net's own label maps: make_label_votes.py.
"""

import hashlib
import pathlib
from functools import partial
from importlib.metadata import version

import numpy as np
import scipy
import skimage
from batchgenerators.augmentations.utils import resize_segmentation
from scipy.ndimage import binary_fill_holes, map_coordinates
from skimage.transform import resize

HERE = pathlib.Path(__file__).parent
SEED = 20180927

# name, shape, spacing, new spacing (z, y, x), order, order along the coarse axis
IMAGES = [
    ("up_cubic", (9, 12, 10), (1.5, 1.2, 1.3), (1.0, 0.8, 0.9), 3, 0),
    ("down_cubic", (21, 18, 33), (1.0, 1.0, 1.0), (1.7, 2.0, 2.9), 3, 0),
    ("mixed_cubic", (17, 17, 18), (1.0, 1.0, 1.0), (0.7, 1.0, 2.2), 3, 0),
    ("far_down_cubic", (40, 30, 37), (1.0, 1.0, 1.0), (11.0, 9.0, 7.0), 3, 0),
    ("singleton_cubic", (1, 14, 11), (1.0, 1.0, 1.0), (1.0, 0.6, 1.4), 3, 0),
    ("tiny_cubic", (2, 3, 1), (1.0, 1.0, 1.0), (0.4, 0.5, 0.3), 3, 0),
    ("long_cubic", (90, 3, 5), (1.0, 1.0, 1.0), (0.7, 1.0, 1.0), 3, 0),
    ("linear", (9, 12, 10), (1.5, 1.2, 1.3), (1.0, 1.6, 0.9), 1, 0),
    ("nearest", (9, 12, 10), (1.5, 1.2, 1.3), (1.0, 2.4, 0.65), 0, 0),
    ("coarse_z", (6, 16, 19), (5.0, 1.0, 1.0), (3.0, 0.7, 1.3), 3, 0),
    ("coarse_z_down", (16, 16, 17), (4.0, 1.0, 1.1), (9.0, 1.4, 1.4), 3, 0),
    ("coarse_z_kept", (6, 16, 19), (5.0, 1.0, 1.0), (5.0, 0.7, 1.3), 3, 0),
    ("coarse_y", (11, 6, 9), (1.0, 3.5, 1.0), (0.8, 2.0, 1.2), 3, 0),
    ("coarse_x", (11, 9, 6), (1.0, 1.0, 3.5), (0.8, 1.2, 2.0), 3, 0),
    ("coarse_target", (14, 12, 10), (1.0, 1.0, 1.0), (4.0, 1.2, 0.9), 3, 0),
    ("coarse_tied", (6, 6, 20), (4.0, 4.0, 1.0), (3.0, 3.0, 1.0), 3, 0),
    ("coarse_linear", (6, 10, 9), (5.0, 1.0, 1.0), (3.0, 0.7, 1.3), 1, 1),
    ("coarse_cubic", (6, 10, 9), (5.0, 1.0, 1.0), (3.0, 0.7, 1.3), 3, 3),
]

LABELS = [
    ("up", (9, 12, 10), (1.5, 1.2, 1.3), (1.0, 0.8, 0.9), 1, 0),
    ("half", (12, 10, 14), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), 1, 0),
    ("double", (7, 6, 8), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5), 1, 0),
    ("mixed", (17, 17, 18), (1.0, 1.0, 1.0), (0.7, 1.0, 2.2), 1, 0),
    ("third", (15, 12, 9), (1.0, 1.0, 1.0), (3.0, 0.6, 1.5), 1, 0),
    ("singleton", (1, 14, 11), (1.0, 1.0, 1.0), (1.0, 0.6, 1.4), 1, 0),
    ("nearest", (9, 12, 10), (1.5, 1.2, 1.3), (1.0, 2.4, 0.65), 0, 0),
    ("coarse_z", (6, 16, 19), (5.0, 1.0, 1.0), (3.0, 0.7, 1.3), 1, 0),
    ("coarse_y", (11, 6, 9), (1.0, 3.5, 1.0), (0.8, 2.0, 1.2), 1, 0),
    ("coarse_x", (11, 9, 6), (1.0, 1.0, 3.5), (0.8, 1.2, 2.0), 1, 0),
    ("coarse_linear", (6, 10, 9), (5.0, 1.0, 1.0), (3.1, 0.7, 1.3), 1, 1),
]

THRESHOLD = 3.0


def new_shape(shape, spacing, new_spacing):
    return tuple(max(1, round(s / t * n)) for s, t, n in zip(spacing, new_spacing, shape))


def coarse_axis(spacing, new_spacing):
    for s in (spacing, new_spacing):
        if max(s) / min(s) > THRESHOLD:
            axes = [i for i in range(3) if s[i] == max(s)]
            return axes[0] if len(axes) == 1 else None
    return None


def scale(x, shape, order):
    return resize(x, shape, order, mode="edge", anti_aliasing=False)


def half(maps, labels, shape):
    """The largest label with one half; 0 where none has."""
    out = np.zeros(shape, np.int16)
    for m, label in zip(maps, labels):
        out[m >= 0.5] = label
    return out


def scale_label(x, shape, order, vote):
    if order == 0:
        return scale(x.astype(float), shape, 0).astype(np.int16)
    if vote == "largest_weight":
        return resize_segmentation(x, shape, order)
    labels = np.unique(x)
    return half((scale((x == l).astype(float), shape, order) for l in labels), labels, shape)


def along(x, axis, n, order):
    grid = np.meshgrid(*[np.arange(m, dtype=float) for m in x.shape], indexing="ij")
    positions = x.shape[axis] / n * (np.arange(n) + 0.5) - 0.5
    shape = list(x.shape)
    shape[axis] = n
    grid = np.stack([np.broadcast_to(g.take([0], axis=axis), shape) for g in grid])
    grid[axis] = positions.reshape([n if a == axis else 1 for a in range(3)])
    return map_coordinates(x, grid, order=order, mode="nearest")


def resample(x, spacing, new_spacing, order, coarse_order, vote=None):
    """A label map if there is a vote."""
    target = new_shape(x.shape, spacing, new_spacing)
    if target == x.shape:
        return x
    plane = partial(scale_label, vote=vote) if vote else scale
    axis = coarse_axis(spacing, new_spacing)
    if axis is None:
        return plane(x, target, order)
    in_plane = tuple(n for i, n in enumerate(target) if i != axis)
    planes = [plane(x.take(i, axis=axis), in_plane, order) for i in range(x.shape[axis])]
    x = np.stack(planes, axis=axis)
    if x.shape == target:
        return x
    if not vote or coarse_order == 0:
        return along(x, axis, target[axis], coarse_order)
    labels = np.unique(x)
    out = np.zeros(target, np.int16)
    for l in labels:
        # Of halves, numpy rounds this one down.
        out[np.round(along((x == l).astype(float), axis, target[axis], coarse_order)) > 0.5] = l
    return out


def normalise(x, scheme, intensity, inside):
    if scheme == "ct":
        x = np.clip(x, intensity["percentile_00_5"], intensity["percentile_99_5"])
        return (x - intensity["mean"]) / max(intensity["sd"], 1e-8)
    if scheme == "z_score":
        return (x - x.mean()) / max(x.std(), 1e-8)
    if scheme == "z_score_masked":
        out = np.zeros_like(x)
        out[inside] = (x[inside] - x[inside].mean()) / max(x[inside].std(), 1e-8)
        return out
    if scheme == "rescale_to01":
        return (x - x.min()) / max(x.max() - x.min(), 1e-8)
    if scheme == "rgb_to01":
        return x / 255
    return x


# The case of tests/golden.rs; scheme per channel.
SCHEMES = ["ct", "z_score", "z_score_masked", "rescale_to01", "rgb_to01", "none"]
INTENSITY = {"mean": 80.0, "sd": 31.0, "percentile_00_5": 20.0, "percentile_99_5": 190.0}
TRANSPOSE = (1, 0, 2)
SPACING = (1.0, 2.5, 1.0)
TARGET = (2.0, 0.8, 1.3)


def raw_case(rng):
    """Bright box with a hole, and zeros around it; classes 0, 1, 2, some of class 1 outside the box."""
    image = np.zeros((len(SCHEMES), 15, 9, 13), np.float32)
    inner = (slice(None), slice(2, 13), slice(1, 8), slice(3, 12))
    image[inner] = rng.uniform(1, 255, image[inner].shape)
    image[:, 3:5, 1:4, 3:6] = 0  # open to the outside
    image[:, 7:9, 3:5, 6:8] = 0  # closed
    label = np.zeros(image.shape[1:], np.int16)
    label[4:9, 2:6, 4:9] = 1
    label[8:12, 4:7, 7:11] = 2
    label[3, 2, 4] = 1  # annotated although the image is 0 there
    return image, label


def whole_case(image, label, resample_first):
    axes = (0,) + tuple(1 + a for a in TRANSPOSE)
    image, label = image.transpose(axes).astype(float), label.transpose(TRANSPOSE)
    spacing = tuple(SPACING[a] for a in TRANSPOSE)
    mask = binary_fill_holes((image != 0).any(axis=0))
    where = np.nonzero(mask)
    box = tuple(slice(w.min(), w.max() + 1) for w in where)
    image, label, mask = image[(slice(None),) + box], label[box].copy(), mask[box]
    label[(label == 0) & ~mask] = -1
    channels = list(image)
    to = lambda x, o, vote=None: resample(x, spacing, TARGET, o, 0, vote)
    if resample_first:
        channels = [to(c, 3).astype(np.float32).astype(float) for c in channels]
        label = to(label, 0, "half")
        return np.stack([normalise(c, s, INTENSITY, label >= 0) for c, s in zip(channels, SCHEMES)]), label
    channels = [normalise(c, s, INTENSITY, label >= 0) for c, s in zip(channels, SCHEMES)]
    channels = [c.astype(np.float32).astype(float) for c in channels]
    return np.stack([to(c, 3) for c in channels]), to(label, 1, "largest_weight")


def main():
    rng = np.random.default_rng(SEED)
    files = {}

    def save(name, array):
        np.save(HERE / name, np.ascontiguousarray(array))
        files[name] = hashlib.sha256((HERE / name).read_bytes()).hexdigest()

    lines = ["# Written by make_golden.py."]

    def describe(table, name, spacing, new_spacing, order, coarse_order):
        lines.extend([
            "", f"[[{table}]]", f'name = "{name}"', f"spacing_mm = {list(spacing)}",
            f"new_spacing_mm = {list(new_spacing)}", f"order = {order}", f"coarse_order = {coarse_order}",
        ])

    for name, shape, spacing, new_spacing, order, coarse_order in IMAGES:
        x = rng.normal(100, 50, shape).astype(np.float32)
        y = resample(x.astype(float), spacing, new_spacing, order, coarse_order)
        save(f"image_{name}_in.npy", x)
        save(f"image_{name}_out.npy", y.astype(float))
        describe("image", name, spacing, new_spacing, order, coarse_order)
    for name, shape, spacing, new_spacing, order, coarse_order in LABELS:
        # Blobs, so that there are boundaries and not only noise.
        x = rng.integers(-1, 4, [-(-n // 2) for n in shape]).astype(np.int16)
        for axis in range(3):
            x = x.repeat(2, axis)
        x = x[tuple(slice(n) for n in shape)]
        noise = rng.random(shape) < 0.15
        x = np.where(noise, rng.integers(-1, 4, shape), x).astype(np.int16)
        save(f"label_{name}_in.npy", x)
        save(f"label_{name}_out.npy", resample(x, spacing, new_spacing, order, coarse_order, "half"))
        describe("label", name, spacing, new_spacing, order, coarse_order)
    image, label = raw_case(rng)
    save("case_image.npy", image)
    save("case_label.npy", label)
    for first, name in ((True, "paper"), (False, "v2")):
        y, l = whole_case(image, label, first)
        save(f"case_{name}_image.npy", y)
        save(f"case_{name}_label.npy", l.astype(np.int16))
    (HERE / "cases.toml").write_text("\n".join(lines) + "\n")

    head = [
        "# Written by make_golden.py.", 'made_by = "make_golden.py"', f"seed = {SEED}", "", "[with]",
        f'numpy = "{np.__version__}"', f'scipy = "{scipy.__version__}"',
        f'scikit-image = "{skimage.__version__}"',
        f'batchgenerators = "{version("batchgenerators")}"', "", "[sha256]",
    ]
    head += [f'"{n}" = "{h}"' for n, h in files.items()]
    (HERE / "PROVENANCE.toml").write_text("\n".join(head) + "\n")


if __name__ == "__main__":
    main()
