"""Makes foreground.toml with nnU-Net's own loader: python make_foreground.py

The first sample of a batch that must show foreground, for batches of 1 to 512 samples; the batch's size where none must.
"""

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

# nnU-Net's own is 0.33; the others reach ties and both ends.
FRACTIONS = [0.33, 0.0, 0.05, 0.1, 0.25, 1 / 3, 0.5, 0.67, 0.75, 1.0]
SIZES = range(1, 513)


def first(batch, fraction):
    loader = SimpleNamespace(batch_size=batch, oversample_foreground_percent=fraction)
    forced = [nnUNetDataLoader._oversample_last_XX_percent(loader, sample) for sample in range(batch)]
    at = forced.index(True) if True in forced else batch
    assert forced == [False] * at + [True] * (batch - at)
    return at


def main():
    lines = ["# Written by make_foreground.py.", f'nnunetv2 = "{version("nnunetv2")}"']
    for fraction in FRACTIONS:
        lines += ["", "[[fraction]]", f"foreground_fraction = {fraction}", f"first = {[first(n, fraction) for n in SIZES]}"]
    (Path(__file__).parent / "foreground.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
