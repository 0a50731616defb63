"""Makes the golden arrays of this folder with SciPy and NumPy: python make_golden.py (versions in PROVENANCE.toml).

Every array is float64 or int16 in C order; coordinates and matrices are given as the tests compute them, so that
only the resampling is compared. Layout: <name>_<role>.npy.
"""

import hashlib
import platform
from pathlib import Path

import numpy as np
import scipy
from scipy.ndimage import gaussian_filter, map_coordinates

HERE = Path(__file__).parent
SEED = 20181


def mesh(patch):
    """Offsets of all patch voxels from the patch's centre, [axis, z, y, x]."""
    grid = np.meshgrid(*[np.arange(n, dtype=np.float64) - (n - 1) / 2 for n in patch], indexing="ij")
    return np.stack(grid)


def rotation(angles):
    """Product of the three elementary rotations; row vectors are multiplied from the left."""
    (a, b, c) = angles
    about0 = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about1 = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about2 = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.linalg.multi_dot([np.array(about0), np.array(about1), np.array(about2)])


def label_result(label, coordinates):
    """Each value interpolated linearly as 0 or 1, with -1 all around: the largest weight, of equal ones the nearest's."""
    values = np.unique(np.append(label, -1))
    weights = np.stack([map_coordinates((label == v).astype(float), coordinates, order=1, mode="grid-constant",
                                        cval=float(v == -1)) for v in values])
    result = values[weights.argmax(0)]
    nearest = map_coordinates(label.astype(float), np.floor(coordinates + 0.5), order=0, mode="grid-constant", cval=-1)
    tied = weights[np.searchsorted(values, nearest), *np.indices(result.shape)] == weights.max(0)
    return np.where(tied, nearest, result).astype(np.int16)


def save(name, array):
    np.save(HERE / f"{name}.npy", np.ascontiguousarray(array))


def warp(name, rng, case, patch, centre, angles, scale, planes=False, elastic=None):
    """One composed map: (offset + displacement) times rotation times scale, plus centre."""
    image = rng.normal(size=case).astype(np.float32)
    blobs = gaussian_filter(rng.normal(size=case), 1.5)
    label = np.digitize(blobs, np.quantile(blobs, [0.3, 0.7, 0.85])).astype(np.int16) - 1
    offsets = mesh(patch)
    if elastic is not None:
        alpha, sigma = elastic
        field = (patch[0] if not planes else 1, *patch[1:])
        noise = rng.uniform(-1, 1, size=(3, *field)).astype(np.float32)
        if planes:
            noise[0] = 0
            smooth = [gaussian_filter(n[0].astype(np.float64), sigma, mode="constant", cval=0)[None] for n in noise]
        else:
            smooth = [gaussian_filter(n.astype(np.float64), sigma, mode="constant", cval=0) for n in noise]
        displacement = alpha * np.stack(smooth)
        save(f"{name}_noise", noise)
        save(f"{name}_displacement", displacement)
        offsets = offsets + displacement
    matrix = rotation(angles) * scale
    if planes:
        matrix[0] = [1, 0, 0]
    coordinates = np.einsum("izyx,ij->jzyx", offsets, matrix) + np.array(centre)[:, None, None, None]
    save(f"{name}_case", image)
    save(f"{name}_label", label)
    save(f"{name}_coordinates", coordinates)
    for order in (0, 1, 3):
        mode = "grid-constant" if order == 1 else "constant"  # linear: zeros lie around the image
        if planes:
            out = np.zeros(patch)
            for z in range(patch[0]):
                depth = round(coordinates[0, z, 0, 0])
                if 0 <= depth < case[0]:
                    source = image[depth].astype(np.float64)
                    out[z] = map_coordinates(source, coordinates[1:, z], order=order, mode=mode, cval=0)
        else:
            out = map_coordinates(image.astype(np.float64), coordinates, order=order, mode=mode, cval=0)
        save(f"{name}_order{order}", out)
    if planes:
        out = np.full(patch, -1, np.int16)
        for z in range(patch[0]):
            depth = round(coordinates[0, z, 0, 0])
            if 0 <= depth < case[0]:
                out[z] = label_result(label[depth], coordinates[1:, z])
    else:
        out = label_result(label, coordinates)
    save(f"{name}_classes", out)


def gamma(rng):
    channel = rng.normal(2, 3, size=(4, 5, 6)).astype(np.float32)
    save("gamma_channel", channel)
    wide = channel.astype(np.float64)
    low, extent = wide.min(), wide.max() - wide.min()
    for exponent in (0.7, 1.5):
        plain = ((wide - low) / extent) ** exponent * extent + low
        kept = (plain - plain.mean()) / plain.std() * wide.std() + wide.mean()
        save(f"gamma_{exponent}_plain", plain)
        save(f"gamma_{exponent}_kept", kept)


def main():
    for old in HERE.glob("*.npy"):
        old.unlink()
    rng = np.random.default_rng(SEED)
    degrees = np.deg2rad
    warp("volume", rng, (19, 17, 14), (9, 8, 10), (8.5, 7.25, 6.5), degrees([11.0, -14.0, 7.0]), 0.87)
    warp("border", rng, (7, 12, 10), (10, 9, 11), (2.0, 10.0, 5.5), degrees([-15.0, 15.0, 15.0]), 1.25)
    warp("elastic", rng, (18, 16, 15), (11, 12, 13), (8.0, 8.5, 7.0), degrees([5.0, 9.0, -12.0]), 1.1,
         elastic=(160.0, 2.25))
    warp("planes", rng, (6, 20, 17), (4, 14, 12), (1.5, 10.5, 8.5), (degrees(133.0), 0.0, 0.0), 1.2, planes=True,
         elastic=(90.0, 3.0))
    warp("inner", rng, (70, 12, 11), (9, 8, 7), (35.25, 5.5, 5.0), degrees([-6.0, 3.0, 10.0]), 0.95)
    warp("flat", rng, (1, 9, 2), (1, 6, 6), (0.0, 4.0, 0.5), (degrees(-60.0), 0.0, 0.0), 0.9, planes=True)
    gamma(rng)
    lines = [f'made_by = "make_golden.py"\nseed = {SEED}',
             f'with = {{ python = "{platform.python_version()}", numpy = "{np.__version__}", scipy = "{scipy.__version__}" }}']
    lines += ["", "[sha256]"]
    for path in sorted(HERE.glob("*.npy")):
        lines.append(f'"{path.name}" = "{hashlib.sha256(path.read_bytes()).hexdigest()}"')
    (HERE / "PROVENANCE.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
