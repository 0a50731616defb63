#!/usr/bin/env bash
# run.sh [MINUTES [TARGET…]]: libFuzzer over each target in turn, so many minutes in all (default 60), on one core; a table at
# the end. Options after `--` go to libFuzzer. Corpora stay in target/fuzz, so that a later run goes on where this one ended.
# SANITIZER=none is two to three times as fast as address, and finds all that safe code can do wrong.
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=${1:-60}; shift || true
all=$(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' tests/fuzz/Cargo.toml)
targets=(${@:-$all})
sanitizer=${SANITIZER:-address}
# Coverage counters and sanitizers are there in the stable compiler, under a name that says they may change.
export RUSTC_BOOTSTRAP=1
command -v cargo-fuzz > /dev/null || { echo "cargo install cargo-fuzz first"; exit 2; }
fuzz=(--fuzz-dir tests/fuzz --features libfuzzer --sanitizer "$sanitizer")
out=target/fuzz; mkdir -p "$out/logs" "$out/artifacts"
for t in "${targets[@]}"; do cargo fuzz build "${fuzz[@]}" "$t"; done
each=$((minutes * 60 / ${#targets[@]}))
for t in "${targets[@]}"; do
  mkdir -p "$out/corpus/$t" "$out/artifacts/$t"
  # One process after the other as long as time is left: a finding ends one, the next goes on.
  end=$((SECONDS + each)); : > "$out/logs/$t"
  while left=$((end - SECONDS)); [ "$left" -gt 1 ]; do
    cargo fuzz run "${fuzz[@]}" "$t" "$out/corpus/$t" -- -max_total_time="$left" -timeout=10 \
      -rss_limit_mb=2048 -max_len=16384 -artifact_prefix="$out/artifacts/$t/" -print_final_stats=1 >> "$out/logs/$t" 2>&1 || true
  done
  # Scratch folders of processes that are gone.
  for scratch in /dev/shm/nnu-fuzz-*; do [ -d "/proc/${scratch##*-}" ] || rm -rf "$scratch"; done
done
printf '| target | inputs | inputs/s | findings | slowest |\n|---|---|---|---|---|\n'
for t in "${targets[@]}"; do
  awk -v t="$t" -v each="$each" -v found="$(find "$out/artifacts/$t" -type f | wc -l)" '
    /stat::number_of_executed_units/ { n += $2 }
    /stat::slowest_unit_time_sec/ { if ($2 > slow) slow = $2 }
    END { printf "| `%s` | %d | %d | %d | %d s |\n", t, n, n / each, found, slow }' "$out/logs/$t"
done
