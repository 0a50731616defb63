"""Writes a spool of training batches for `nnu-train --batches`: noisy patches instead of nnu-augment's."""
import pathlib, sys, tomllib
import numpy as np
root, rng = pathlib.Path(sys.argv[1]), np.random.default_rng(0)
plan = tomllib.loads((root / "plan.toml").read_text())["configurations"]["3d_fullres"]
for i in range(6):
    (folder := root / "batches" / f"{i:06}").mkdir(parents=True)
    label = rng.integers(0, 3, (plan["batch_size"], *plan["patch_shape"]))
    np.save(folder / "image.npy", (label + rng.normal(0, 0.2, label.shape))[:, None].astype("<f4"))
    np.save(folder / "label.npy", label.astype("<i2"))
    (folder / "batch.toml").write_text(f'[artifact]\nkind = "batch"\nversion = 1\n[batch]\nindex = {i}\n')
