"""Makes the golden arrays of this folder with batchgeneratorsv2: python make_golden.py (versions in PROVENANCE.toml).

Each transform gets its random draw from here and does its arithmetic by itself. Layout: <name>_<role>.npy.
"""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.nnunet import random_binary_operator as operators
from batchgeneratorsv2.transforms.nnunet import remove_connected_components as components
from batchgeneratorsv2.transforms.noise.gaussian_blur import blur_dimension
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from scipy.ndimage import gaussian_filter

HERE = Path(__file__).parent
SEED = 2611


def save(name, array):
    np.save(HERE / f"{name}.npy", np.ascontiguousarray(array))


def classes(rng, shape, quantiles, first):
    blobs = gaussian_filter(rng.normal(size=shape), 1.7)
    return np.digitize(blobs, np.quantile(blobs, quantiles)).astype(np.int16) + first


def intensities(channel):
    def tensor():
        return torch.from_numpy(channel.copy())[None]

    for i, sigmas in enumerate([(0.5, 0.75, 1.0), (0.93, 0.51, 0.64)]):
        out = tensor()
        for axis, sigma in enumerate(sigmas):
            out = blur_dimension(out, sigma, axis, force_use_fft=False)
        save(f"blur_{i}", out[0].numpy())
    one = torch.tensor([0])
    for factor in (0.77, 1.21):
        times = torch.tensor([factor])
        apply = MultiplicativeBrightnessTransform(1.0, False)._apply_to_image
        save(f"brightness_{factor}", apply(tensor(), apply_to_channel=one, multipliers=times)[0].numpy())
        apply = ContrastTransform(1.0, True, False)._apply_to_image
        save(f"contrast_{factor}", apply(tensor(), apply_to_channel=one, multipliers=times)[0].numpy())
    for zoom, kept in ((0.5, False), (0.63, False), (0.71, True), (0.9, False)):
        scales = torch.tensor([[1.0 if kept else zoom, zoom, zoom]])
        apply = SimulateLowResolutionTransform(1.0, False, True, None)._apply_to_image
        save(f"low_resolution_{zoom}", apply(tensor(), apply_to_channel=one, scales=scales)[0].numpy())
    for exponent, inverted in ((0.7, False), (1.5, False), (0.83, True), (1.31, True)):
        yes = torch.tensor([True])
        out = GammaTransform(1.0, 1.0, False, 1.0, 1.0)._apply_to_image(
            tensor(), apply_to_channel=one, retain_stats=yes, invert_image=torch.tensor([inverted]),
            gamma=torch.tensor([exponent]))
        save(f"gamma_{exponent}", out[0].numpy())


def spatial(name, rng, shape, patch, degrees, scale, flat=False):
    image = rng.normal(size=shape).astype(np.float32)
    label = classes(rng, shape, [0.25, 0.6, 0.8], -1)
    angles = np.deg2rad(degrees)
    transform = SpatialTransform(
        patch[1:] if flat else patch, 0, False, p_rotation=1, rotation=lambda image, dim: angles[dim], p_scaling=1,
        scaling=scale, p_synchronize_scaling_across_axes=1, border_mode_seg="constant", padding_value_seg=-1)
    data = {"image": torch.from_numpy(image.copy())[None], "segmentation": torch.from_numpy(label.copy())[None]}
    if flat:
        data = Convert3DTo2DTransform()(**data)
    data = transform(**data)
    if flat:
        data = Convert2DTo3DTransform()(**data)
    save(f"{name}_case", image)
    save(f"{name}_label", label)
    save(f"{name}_image", data["image"][0].numpy())
    save(f"{name}_classes", data["segmentation"][0].numpy())


def one_hot(label):
    return torch.from_numpy(np.stack([label == 1, label == 2]).astype(np.float32))


def back(channels):
    assert not (channels[0] * channels[1]).any()
    return (channels[0] + 2 * channels[1]).numpy().astype(np.int16)


def morphology(label):
    save("morphology_label", label)
    results = []
    for operator in ("dilation", "erosion", "opening", "closing"):
        for radius in (1, 2, 5, 8):
            transform = operators.ApplyRandomBinaryOperatorTransform([-2, -1])
            results.append(back(transform._apply_to_image(
                one_hot(label), apply_to_channels=[-2], strel_size=[radius],
                operators=[getattr(operators, f"binary_{operator}_torch")])))
    save("morphology_classes", np.stack(results))


def removal(label):
    save("removal_label", label)
    transform = components.RemoveRandomConnectedComponentFromOneHotEncodingTransform(
        [-2, -1], fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=0.02)
    choose, results, index, count = np.random.choice, [], 0, 1
    while index < count:
        def pick(ids):
            nonlocal count
            count = len(ids)
            return ids[index]

        np.random.choice = pick
        results.append(back(transform._apply_to_image(one_hot(label), apply_to_channels=[-2])))
        index += 1
    np.random.choice = choose
    assert len(results) > 3
    save("removal_classes", np.stack(results))


def main():
    for old in HERE.glob("*.npy"):
        old.unlink()
    rng = np.random.default_rng(SEED)
    channel = gaussian_filter(rng.normal(2, 3, size=(9, 12, 11)), 0.6).astype(np.float32)
    save("channel", channel)
    intensities(channel)
    spatial("volume", rng, (17, 15, 18), (9, 11, 10), [23.0, -11.0, 29.0], 0.81)
    spatial("border", rng, (9, 10, 13), (9, 10, 13), [-30.0, 17.0, 8.0], 1.37)
    spatial("slices", rng, (3, 20, 17), (3, 12, 13), [0.0, 141.0], 1.12, flat=True)
    morphology(classes(rng, (16, 19, 18), [0.55, 0.8], 0))
    removal(classes(rng, (14, 16, 15), [0.7, 0.85], 0))
    packages = ", ".join(f'{name} = "{version(name)}"' for name in
                         ("batchgeneratorsv2", "numpy", "scikit-image", "scipy", "torch"))
    lines = [f'made_by = "make_golden.py"\nseed = {SEED}',
             f'with = {{ python = "{platform.python_version()}", {packages} }}']
    lines += ["", "[sha256]"]
    for path in sorted(HERE.glob("*.npy")):
        lines.append(f'"{path.name}" = "{hashlib.sha256(path.read_bytes()).hexdigest()}"')
    (HERE / "PROVENANCE.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
