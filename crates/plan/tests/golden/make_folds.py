"""Makes folds.toml: the validation indices of scikit-learn's shuffled KFold, as nnU-Net splits its cases.

python -m venv venv && venv/bin/pip install scikit-learn==1.7.2 numpy==2.3.3 && venv/bin/python make_folds.py
"""

import pathlib

import numpy
import sklearn
from sklearn.model_selection import KFold

SIZES = [(2, 2), (5, 5), (7, 5), (12, 3), (12, 5), (33, 4), (64, 5), (65, 5), (200, 5), (260, 5), (700, 10)]

here = pathlib.Path(__file__).parent
text = "# Made by make_folds.py; validation indices of each fold, sorted.\n"
for n, k in SIZES:
    folds = KFold(n_splits=k, shuffle=True, random_state=12345).split(numpy.zeros(n))
    text += f"\n[[split]]\ncases = {n}\nfolds = {k}\nvalidation = [\n"
    text += "".join(f"  {validation.tolist()},\n" for _, validation in folds) + "]\n"
(here / "folds.toml").write_text(text)
(here / "PROVENANCE.toml").write_text(
    '["folds.toml"]\nmade_by = "make_folds.py"\n'
    f'with = {{ scikit-learn = "{sklearn.__version__}", numpy = "{numpy.__version__}", seed = 12345 }}\n'
)
