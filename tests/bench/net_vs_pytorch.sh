#!/bin/sh
# One training iteration of the same network, PyTorch float32 beside nnu-net, alternating, on 2 threads.
#
#   tests/bench/net_vs_pytorch.sh [VENV]
#
# Makes a Python environment with torch and numpy in VENV (default: a temporary folder), unless it is there already.
set -eu
cd "$(dirname "$0")/../.."
if [ $# -gt 0 ]; then
    venv=$1
else
    venv=$(mktemp -d)
    trap 'rm -rf "$venv"' EXIT
fi
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import torch, numpy' 2>/dev/null; then
    "$venv/bin/pip" install --quiet torch numpy
fi
cargo build --release --quiet -p net
"$venv/bin/python" tests/bench/net_vs_pytorch.py "${CARGO_TARGET_DIR:-target}/release/nnu-net"
