"""Random two-channel images, their filled nonzero masks by scipy, and the masks' boxes.

    python make_golden.py      # numpy, scipy; writes beside itself
"""
import json
import pathlib

import numpy as np
import scipy
from scipy.ndimage import binary_fill_holes, gaussian_filter

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)
cases = []

def case(image):  # channel, z, y, x
    mask = (image != 0).any(0)
    filled = binary_fill_holes(mask)
    where = np.argwhere(filled)
    box = [[int(a), int(b) + 1] for a, b in zip(where.min(0), where.max(0))] if len(where) else None
    return image, filled, box

def blobs(shape, level, sigma):
    """Shells and sponges: thresholded smooth noise, with open and closed holes."""
    noise = gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return np.abs(noise) > level * noise.std()

for shape in [(1, 1, 1), (1, 7, 9), (6, 1, 8), (5, 6, 1), (2, 2, 2), (9, 10, 11), (14, 15, 13)]:
    for level in (0.3, 0.6, 1.0, 1.6):
        image = np.zeros((2, *shape), np.float32)
        image[0] = blobs(shape, level, 1.0) * rng.integers(-3, 4, shape)
        image[1] = blobs(shape, level + 0.5, 0.7) * rng.normal(size=shape)
        inner = np.zeros(shape, bool)
        inner[tuple(slice(n // 5, n - n // 5) for n in shape)] = True
        cases.append(case(image * inner))
for zeros in (0.1, 0.3, 0.5, 0.7):  # many holes, simple and winding
    cases.append(case((rng.random((1, 9, 10, 11)) > zeros).astype(np.float32)))
shell = np.zeros((1, 7, 8, 9), np.float32)
shell[0, 1:6, 1:7, 2:8] = 5
shell[0, 2:5, 2:6, 3:7] = 0
cases.append(case(shell))
leaky = shell.copy()
leaky[0, 3, 3, 7] = 0  # opened through a face
cases.append(case(leaky))
corner = shell.copy()
corner[0, 1, 1, 2] = 0  # opened over a corner only: stays a hole
cases.append(case(corner))
cases.append(case(np.zeros((1, 3, 4, 5), np.float32)))

table = [{"shape": i.shape, "image": np.round(i, 3).astype(float).flatten().tolist(), "filled": m.astype(int).flatten().tolist(), "box": b}
         for i, m, b in cases if not ((np.round(i, 3) == 0) & (i != 0)).any()]
(HERE / "expected.json").write_text(json.dumps(table, separators=(",", ":")))
(HERE / "PROVENANCE.toml").write_text(
    f'made_by = "make_golden.py"\nseed = 7\n\n[with]\nnumpy = "{np.__version__}"\nscipy = "{scipy.__version__}"\n')
