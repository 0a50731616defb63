#!/bin/sh
# Times nnu beside the Python programs it stands for, and writes tests/bench/BENCHMARKS.md.
#
#   tests/bench/bench.sh [VENV [DATA [option of common.py …]]]
#
# Makes a Python environment with the peers in VENV (default: a temporary folder), unless they are there already. DATA is a
# folder of data sets (`Task04_Hippocampus`, …); without it, the scripts that need real data leave that out.
set -eu
cd "$(dirname "$0")/../.."
if [ $# -gt 0 ]; then
    venv=$1
    shift
else
    venv=$(mktemp -d)
    trap 'rm -rf "$venv"' EXIT
fi
data=
if [ $# -gt 0 ]; then
    data=$1
    shift
fi
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import torch, nnunetv2, batchgeneratorsv2, skimage, cc3d' 2>/dev/null; then
    "$venv/bin/pip" install --quiet torch nnunetv2 batchgeneratorsv2 scikit-image connected-components-3d
fi
cargo build --release --quiet --workspace --bins --examples
for script in $(grep -l '^from common import\|^import common' tests/bench/*.py | grep -v /report.py); do
    "$venv/bin/python" "$script" ${data:+--data "$data"} "$@"
done
"$venv/bin/python" tests/bench/report.py
