#!/usr/bin/env bash
# Compiles every kernel for every generation of cards, without one, and holds the result against budget.toml.
# Gets NVIDIA's compiler and disassembler from PyPI into target/cuda-tools, once. `--write` renews the budget.
set -euo pipefail
cd "$(dirname "$0")/.."
tools="${CARGO_TARGET_DIR:-$PWD/target}/cuda-tools"
pins=(nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-nvdisasm==13.2.78)
if [[ "$(cat "$tools/pins" 2> /dev/null)" != "${pins[*]}" ]]; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install -q --no-deps "${pins[@]}"
  echo "${pins[*]}" > "$tools/pins"
fi
cuda=("$tools"/lib/python3*/site-packages/nvidia/cu13)
exec cargo run -q -p kernels --bin check-kernels -- --nvrtc "${cuda[0]}/lib" --tools "${cuda[0]}/bin" "$@"
