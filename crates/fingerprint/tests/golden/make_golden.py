"""Reference statistics by numpy and scipy: of made-up values, and of the real data sets.

    python make_golden.py SHARED_DATA      # numpy, scipy, SimpleITK; writes beside itself
"""
import json
import pathlib
import sys

import numpy as np
import scipy
import SimpleITK as sitk
from scipy.ndimage import binary_fill_holes

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(3)


def statistics(values):
    v = values.astype(np.float64)
    low, median, high = np.percentile(v, [0.5, 50, 99.5])
    return {"mean": v.mean(), "sd": v.std(), "min": v.min(), "median": median, "max": v.max(),
            "percentile_00_5": low, "percentile_99_5": high}


samples = {
    "ct": np.round(rng.normal(40, 300, 1500)),
    "large_integers": rng.integers(0, 16384, 1500),
    "normal": rng.normal(0, 1, 1500),
    "skewed": rng.lognormal(5, 2, 1500),
    "one": np.array([3.25]),
    "two": np.array([-1.5, 7.125]),
    "ties": rng.integers(-2, 3, 1000),
    "narrow": 1000 + rng.random(1500) * 0.1,
    "zeros_of_both_signs": np.array([0.0, -0.0, 0.0, 1e-40, -1e-40]),
}
table = {}
for name, values in samples.items():
    values = values.astype(np.float32)
    table[name] = {"values": values.tolist(), **statistics(values)}
(HERE / "statistics.json").write_text(json.dumps(table, separators=(",", ":")))


def measure(folder):
    description = json.loads((folder / "dataset.json").read_text())
    channels = len(description.get("channel_names") or description["modality"])
    values = sorted(int(v) for v in (description["labels"].values() if "channel_names" in description
                                     else description["labels"].keys()))
    cases, pools = [], [[] for _ in range(channels)]
    for path in sorted((folder / "labelsTr").glob("[!.]*.nii.gz"), key=lambda p: p.name[:-7]):
        case = path.name[:-7]
        files = [folder / "imagesTr" / f"{case}.nii.gz"] if "modality" in description else [
            folder / "imagesTr" / f"{case}_{c:04}.nii.gz" for c in range(channels)]
        images = [sitk.ReadImage(str(f)) for f in files]
        stack = np.stack([sitk.GetArrayFromImage(i).astype(np.float32) for i in images])
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        where = np.argwhere(binary_fill_holes((stack != 0).any(0)))
        low, high = where.min(0), where.max(0) + 1
        box = tuple(slice(a, b) for a, b in zip(low, high))
        for pool, channel in zip(pools, stack):
            pool.append(channel[box][label[box] > 0])
        cases.append([case, list(label.shape), images[0].GetSpacing()[::-1], (high - low).tolist(),
                      [int((label == v).sum()) for v in values]])
    pools = [np.concatenate(p) for p in pools]
    return {"cases": cases, "channels": [{"voxels": len(p), **statistics(p)} for p in pools]}


shared = pathlib.Path(sys.argv[1])
real = {name: measure(shared / name) for name in ["Task04_Hippocampus", "sts_ct", "ms_lesion_4mod"]}
(HERE / "real_data.json").write_text(json.dumps(real, separators=(",", ":")))
versions = {"numpy": np.__version__, "scipy": scipy.__version__, "SimpleITK": sitk.Version().VersionString()}
lines = [f'{name} = "{version}"' for name, version in versions.items()]
(HERE / "PROVENANCE.toml").write_text('made_by = "make_golden.py SHARED_DATA"\nseed = 3\n\n[with]\n' + "\n".join(lines) + "\n")
