"""What nnU-Net makes of labels that `nnu-plan export` refuses or lets through (tests/nnunet_import.rs): the values that its
label manager writes for the largest output 0, 1, 2, …, or the error.

    pip install nnunetv2==2.8.1
    python check_limits.py
"""

import os
import tempfile

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, tempfile.gettempdir())

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager


def written(labels, order=None):
    try:
        manager = LabelManager(labels, order)
    except (AssertionError, RuntimeError) as error:
        return type(error).__name__
    outputs = np.eye(manager.num_segmentation_heads, dtype=np.float32)[:, :, None, None]
    return manager.convert_probabilities_to_segmentation(outputs).ravel().tolist()


CASES = [
    # Refused: 2 is written where the label is 5.
    ("a gap", {"background": 0, "a": 1, "b": 5}, None, [0, 1, 2]),
    # Exported: regions have values of their own.
    ("a gap below regions", {"background": 0, "w": [1, 5], "b": 5}, [1, 5], [1, 5]),
    # Refused: three classes by softmax.
    ("regions of single values", {"background": 0, "a": [1], "b": [2]}, [1, 2], [0, 1, 2]),
    ("ignore above the next", {"background": 0, "a": 1, "b": 2, "ignore": 255}, None, "AssertionError"),
    ("Ignore", {"background": 0, "a": 1, "b": 2, "Ignore": 3}, None, [0, 1, 2, 3]),
    ("ignore", {"background": 0, "a": 1, "b": 2, "ignore": 3}, None, [0, 1, 2]),
    ("another background", {"nothing": 0, "a": 1, "b": 2}, None, "RuntimeError"),
    ("the Decathlon's layout", {"0": "background", "1": "a"}, None, "RuntimeError"),
]

for name, labels, order, expected in CASES:
    found = written(labels, order)
    print(f"{name}: {found}")
    assert found == expected, expected
