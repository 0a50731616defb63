#!/usr/bin/env bash
# Kills the demo's pipeline at N random moments (kill -9 of every process), starts the same command again each time,
# and compares the final files with those of an undisturbed run. The training is shorter than the demo's, unless
# EPOCHS and ITERATIONS say otherwise; a run that ended before its kill is begun anew.
#   tests/kill_demo.sh [N=20] [seconds of an undisturbed run, to spread the moments over = measured]
set -euo pipefail
cd "$(dirname "$0")/../pipelines"
kills=${1:-20}
demo() { make BIN=../target/release run DATA="$PWD/$1/data" WORK="$PWD/$1" SET=schedule.validation_iterations=5 EPOCHS="${EPOCHS:-2}" ITERATIONS="${ITERATIONS:-20}"; }
hashes() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

rm -rf work/kill_a work/kill_b
make build
for w in work/kill_a work/kill_b; do ../target/release/nnu-phantom -q --out $w/data; done
begin=$(date +%s)
demo work/kill_a > work/kill_a.log 2>&1
seconds=${2:-$(($(date +%s) - begin))}
echo "undisturbed run: $seconds s"

RANDOM=1
done_kills=0
while [ $done_kills -lt "$kills" ]; do
  # A moment anywhere in a whole run: early ones hit the first stages, a run that was resumed often is hit near its end.
  moment=$(awk -v r=$RANDOM -v s="$seconds" 'BEGIN { printf "%.2f", 0.05 + s * r / 32768 }')
  setsid bash -c "$(declare -f demo); demo work/kill_b" > work/kill_b.log 2>&1 &
  group=$!
  sleep "$moment"
  if kill -9 -- -$group 2> /dev/null; then
    done_kills=$((done_kills + 1))
    echo "kill $done_kills after $moment s: $(grep -a 'nnu-' work/kill_b.log | tail -n 1 | cut -c1-100)"
  else
    echo "the run ended before $moment s; starting over"
    rm -rf work/kill_b
    ../target/release/nnu-phantom -q --out work/kill_b/data
  fi
  wait $group 2> /dev/null || true
done
demo work/kill_b > work/kill_b.log 2>&1
diff <(hashes work/kill_a) <(hashes work/kill_b) && echo "same files after $done_kills kills"
