"""Draws the parameters of nnU-Net's training transforms many times: python draw_statistics.py writes statistics.toml.

The transforms are those that nnUNetTrainer itself builds. Per probability: how often it fired in how many draws. Per
parameter: number, mean, standard deviation and the values below which 5, 10, … 95 % of the draws lie.
"""

import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SEED = 2611
DRAWS = 20000
CHANNELS = 2
IMAGE = torch.zeros((CHANNELS, 4, 4, 4))


def transforms(patch, degrees, flat):
    limit = degrees / 180 * np.pi
    built = nnUNetTrainer.get_training_transforms(
        patch, (-limit, limit), None, tuple(range(len(patch))), flat, is_cascaded=True, foreground_labels=[1, 2])
    found = {}
    for t in built.transforms:
        inner = getattr(t, "transform", t)
        name = type(inner).__name__
        if name == "GammaTransform" and inner.p_invert_image == 1:
            name = "InvertedGammaTransform"
        found[name] = (t, inner)
    return found


def fired(transform, image=IMAGE):
    """The inner transform's parameters where it fires."""
    outer, inner = transform
    draws = [inner.get_parameters(image=image) for _ in range(DRAWS) if outer.get_parameters()["apply_transform"]]
    return len(draws), draws


class Table:
    def __init__(self):
        self.rates, self.values = {}, {}

    def rate(self, name, count, of):
        self.rates[name] = (int(count), int(of))

    def value(self, name, values):
        values = np.asarray(values, float).ravel()
        self.values[name] = (len(values), values.mean(), values.std(), np.quantile(values, np.arange(1, 20) / 20))


def spatial(table, found, prefix, size):
    draws = [found["SpatialTransform"][1].get_parameters(image=torch.zeros((1,) + (4,) * size))["affine"]
             for _ in range(DRAWS)]
    affine = [a for a in draws if a is not None]
    scales = np.array([np.abs(np.linalg.det(a)) ** (1 / size) for a in affine])
    turns = [a / s for a, s in zip(affine, scales)]
    rotated = [r for r in turns if np.abs(r - np.eye(size)).max() > 1e-9]
    scaled = scales[np.abs(scales - 1) > 1e-9]
    table.rate(f"{prefix}_rotation", len(rotated), DRAWS)
    table.rate(f"{prefix}_scaling", len(scaled), DRAWS)
    table.rate(f"{prefix}_rotation_or_scaling", len(affine), DRAWS)
    table.value(f"{prefix}_scale", scaled)
    if size == 2:
        table.value(f"{prefix}_degrees", np.rad2deg([np.arctan2(r[1, 0], r[0, 0]) for r in rotated]))
    else:
        angles = [(np.arctan2(r[2, 1], r[2, 2]), -np.arcsin(r[2, 0]), np.arctan2(r[1, 0], r[0, 0])) for r in rotated]
        for axis in range(3):
            table.value(f"{prefix}_degrees_{axis}", np.rad2deg(np.array(angles)[:, axis]))


def intensities(table, found):
    count, draws = fired(found["GaussianNoiseTransform"])
    table.rate("noise", count, DRAWS)
    table.value("noise_sigma", [d["sigmas"] for d in draws])
    count, draws = fired(found["GaussianBlurTransform"])
    table.rate("blur", count, DRAWS)
    table.rate("blur_channels", sum(int(d["apply_to_channel"].sum()) for d in draws), CHANNELS * count)
    table.value("blur_sigma", np.concatenate([np.ravel(d["sigmas"]) for d in draws]))
    for name, kind, key in (("brightness", "MultiplicativeBrightness", "multipliers"),
                            ("contrast", "Contrast", "multipliers"), ("inverted_gamma", "InvertedGamma", "gamma"),
                            ("gamma", "Gamma", "gamma")):
        count, draws = fired(found[f"{kind}Transform"])
        table.rate(name, count, DRAWS)
        table.value(f"{name}_factor", np.concatenate([d[key].numpy() for d in draws]))
        # Channels are drawn apart from each other.
        table.rate(f"{name}_rising", sum(bool(d[key][0] < d[key][1]) for d in draws), count)
    count, draws = fired(found["SimulateLowResolutionTransform"])
    table.rate("low_resolution", count, DRAWS)
    table.rate("low_resolution_channels", sum(len(d["apply_to_channel"]) for d in draws), CHANNELS * count)
    table.value("low_resolution_zoom", np.concatenate([d["scales"][:, 0].numpy() for d in draws if len(d["scales"])]))
    axes = [found["MirrorTransform"][1].get_parameters()["axes"] for _ in range(DRAWS)]
    for axis in range(3):
        table.rate(f"mirror_{axis}", sum(axis in a for a in axes), DRAWS)


def cascade(table, found):
    image = torch.zeros((2, 3, 3, 3))
    count, draws = fired(found["ApplyRandomBinaryOperatorTransform"], image)
    table.rate("morphology", count, DRAWS)
    table.rate("morphology_labels", sum(len(d["operators"]) for d in draws), 2 * count)
    names = [o.__name__ for d in draws for o in d["operators"]]
    for name in sorted(set(names)):
        table.rate(name.removesuffix("_torch"), names.count(name), len(names))
    firsts = [d["apply_to_channels"][0] == -2 for d in draws if len(d["apply_to_channels"]) == 2]
    table.rate("morphology_order", sum(firsts), len(firsts))
    table.value("strel_size", [s for d in draws for s in d["strel_size"]])
    count, draws = fired(found["RemoveRandomConnectedComponentFromOneHotEncodingTransform"], image)
    table.rate("removal", count, DRAWS)
    table.rate("removal_labels", sum(len(d["apply_to_channels"]) for d in draws), 2 * count)


def main():
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    table = Table()
    found = transforms((4, 4, 4), 30, False)
    spatial(table, found, "volume", 3)
    intensities(table, found)
    cascade(table, found)
    spatial(table, transforms((4, 16, 16), 180, True), "slices", 2)
    packages = ", ".join(f'{n} = "{version(n)}"' for n in ("batchgeneratorsv2", "nnunetv2", "numpy", "torch"))
    lines = ['made_by = "draw_statistics.py"', f"seed = {SEED}",
             f'with = {{ python = "{platform.python_version()}", {packages} }}', "", "[rates] # fired, of"]
    lines += [f"{name} = [{a}, {b}]" for name, (a, b) in table.rates.items()]
    for name, (n, mean, sd, quantiles) in table.values.items():
        text = ", ".join(f"{q:.5g}" for q in quantiles)
        lines += ["", f"[values.{name}]", f"n = {n}", f"mean = {mean:.6g}", f"sd = {sd:.6g}", f"quantiles = [{text}]"]
    (Path(__file__).parent / "statistics.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
