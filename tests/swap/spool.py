"""Writes a spool of training batches for `nnu-train --batches`: noise patches instead of nnu-augment's."""
import pathlib, sys
import numpy as np

root, rng = pathlib.Path(sys.argv[1]), np.random.default_rng(0)
plan = (root / "plan.toml").read_text().split("[configurations.3d_fullres]")[1]
value = lambda key: eval(plan.split(f"\n{key} = ")[1].split("\n")[0])
n, patch = value("batch_size"), value("patch_shape")
for i in range(6):
    folder = root / "batches" / f"{i:06}"
    folder.mkdir(parents=True)
    label = rng.integers(0, 3, (n, *patch)).astype("<i2")
    np.save(folder / "image.npy", (label[:, None] + rng.normal(0, 0.2, (n, 1, *patch))).astype("<f4"))
    np.save(folder / "label.npy", label)
    (folder / "batch.toml").write_text(f'[artifact]\nkind = "batch"\nversion = 1\n[batch]\nindex = {i}\n')
