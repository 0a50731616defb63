#!/usr/bin/env bash
# Kills (SIGKILL) each program at N random file operations over all, every second one beside a second process with the same
# command, gives the same command again, and compares with an undisturbed run. Ends with a table.
#   tests/kill.sh [N=1000]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --workspace --bins --quiet
KILLS=${1:-1000} cargo test --package e2e --test disturbed --quiet -- --ignored --nocapture
