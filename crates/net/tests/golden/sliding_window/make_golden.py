"""Golden values of sliding-window prediction: tile positions and Gaussian weights.

Usage: python make_golden.py      (writes gaussian.npz and positions.toml beside itself; needs numpy and scipy)
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

HERE = Path(__file__).parent

# Patch and sigma as a fraction of it. The last two are so narrow that far voxels get exactly 0.
GAUSSIANS = [
    ((40, 56, 40), 0.125),
    ((7, 12, 5), 0.125),
    ((1, 32, 24), 0.125),
    ((9, 10, 11), 0.05),
    ((1, 2, 15), 0.03),
]

# Image edge, patch edge, step.
POSITIONS = [
    (image, tile, step)
    for image in (40, 41, 57, 64, 100, 101, 133, 512)
    for tile in (24, 40, 41)
    for step in (0.25, 0.5, 0.7, 1.0)
    if tile <= image
]


def weights(patch, sigma):
    """The filtered delta, 1 at its peak, zeros filled with the smallest other value."""
    delta = np.zeros(patch)
    delta[tuple(edge // 2 for edge in patch)] = 1
    filtered = gaussian_filter(delta, [edge * sigma for edge in patch], mode="constant", cval=0)
    filtered = filtered / filtered.max()
    filtered[filtered == 0] = filtered[filtered > 0].min()
    return filtered.astype(np.float32)


def positions(image, tile, step):
    """Evenly spread; numpy rounds half to even."""
    tiles = int(np.ceil((image - tile) / (tile * step))) + 1
    if tiles == 1:
        return [0]
    distance = (image - tile) / (tiles - 1)
    return [int(np.round(distance * i)) for i in range(tiles)]


def main():
    arrays = {f"{'x'.join(map(str, patch))}_{sigma}": weights(patch, sigma) for patch, sigma in GAUSSIANS}
    # Patches with an edge beyond 12 are kept as their three centre lines and the corner octant's diagonal: small files.
    for name, array in list(arrays.items()):
        if array.size > 2000:
            z, y, x = (edge // 2 for edge in array.shape)
            n = min(array.shape)
            arrays[name + "_z"], arrays[name + "_y"], arrays[name + "_x"] = array[:, y, x], array[z, :, x], array[z, y, :]
            arrays[name + "_diagonal"] = array[range(n), range(n), range(n)]
            del arrays[name]
    np.savez(HERE / "gaussian.npz", **arrays)
    with open(HERE / "positions.toml", "w", encoding="utf-8") as out:
        for image, tile, step in POSITIONS:
            out.write(f"[[axis]]\nimage = {image}\ntile = {tile}\nstep = {step}\nat = {positions(image, tile, step)}\n")


if __name__ == "__main__":
    main()
