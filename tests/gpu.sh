#!/usr/bin/env bash
# What only a card can show: every operation's test on it, compute-sanitizer, and times beside PyTorch in the same run.
#
#   tests/gpu.sh build                   where cargo is: programs, tests and nnU-Net's Python packages into target/gpu
#   tests/gpu.sh run [OPTION]...         where the card is (CUDA 13, PyTorch, 16 cores; no cargo, no network): 10 minutes
#   tests/gpu.sh run --dry               the same on a machine without a card, as far as it goes, at tiny sizes
#
#   --out DIR          where results.md, results.json, kernels.csv and log.txt go [default: target/gpu/results]
#   --only STEP,STEP   of: tests network inference data sanitizer profile [default: all]
#
# Environment: PYTHON [python3]; SECONDS_IN_ALL [570], shared out to the steps, whose order is the order of their worth.
# Exit codes: 0 all went, 1 a step failed (the others still ran), 2 usage, 3 no card.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
built=target/gpu
# Stands for the checkout in the tests' paths; the machine that runs them has it elsewhere.
link=/tmp/nnu-gpu-checkout
python=${PYTHON:-python3}
steps=(tests network inference data sanitizer profile)
programs=(nnu-net nnu-train nnu-infer nnu-plan nnu-fingerprint nnu-preprocess nnu-phantom)
packages=(
    nnunetv2==2.8.1 dynamic_network_architectures==0.4.4 batchgenerators==0.25.5 batchgeneratorsv2==0.3.6
    acvl_utils==0.2.6 nibabel==5.4.2
)

usage() {
    sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//p}' tests/gpu.sh
}

# ---- build --------------------------------------------------------------------------------------------------------------

build() {
    local out=${CARGO_TARGET_DIR:-target}/release crates=(-p kernels -p net -p augment -p train -p infer)
    rm -rf "$built"
    mkdir -p "$built"/{bin,tests,tests/bin,site}
    ln -sfn "$root" "$link"
    export CARGO_PROFILE_RELEASE_STRIP=symbols
    # Tests first: the programs that they start have the simulator in them, the ones that are timed don't.
    NNU_ROOT=$root NNU_LINK=$link NNU_PROGRAMS=$built/tests/bin RUSTC_WORKSPACE_WRAPPER=$root/tests/bench/gpu_rustc.py \
        cargo test --release --no-run --message-format=json "${crates[@]}" |
        "$python" tests/bench/gpu_collect.py "$built/tests" "$built/tests/bin" "$built/bin"
    cargo build --release "${crates[@]}" -p plan -p fingerprint -p preprocess -p e2e --bins
    cp "${programs[@]/#/$out/}" "$built/bin/"
    git rev-parse --short HEAD > "$built/commit"
    "$python" -m pip install -q --no-deps --no-compile --target "$built/site" "${packages[@]}" ||
        echo "gpu.sh: nnU-Net's packages are not to be had: its own predictor and transforms are left out" >&2
    find "$built/site" -type d \( -name tests -o -name __pycache__ -o -name bin \) -prune -exec rm -rf {} +
    du -sh "$built"
    local size
    size=$(du -sm "$built" | cut -f 1)
    [ "$size" -lt 56 ] || { echo "gpu.sh: $built has $size MB, more than can be carried" >&2; exit 1; }
}

# ---- run ----------------------------------------------------------------------------------------------------------------

# NAME COMMAND...: runs part of a step within the step's time, and records how it ended.
attempt() {
    local name=$1 begun=$SECONDS status=0 left=$((step_ends - SECONDS)) verdict
    shift
    if [ "$left" -lt 5 ]; then
        status=none
    else
        printf '\n== %s: %s\n' "$name" "$*" >> "$log"
        timeout -k 5 "$left" "$@" >> "$log" 2>&1 || status=$?
    fi
    case $status in
        0) verdict=passed ;;
        124 | 137) verdict="FAILED: stopped after $left s" ;;
        none) verdict="FAILED: no time left" ;;
        *) verdict="FAILED: exit code $status" ;;
    esac
    printf '%-40s %s (%d s)\n' "$name" "$verdict" $((SECONDS - begun)) | tee -a "$work/summary.txt"
    [ "$status" = 0 ] || { failed=1; [ "$status" = none ] || tail -n 12 "$log" | sed 's/^/    /'; }
}

# A line of the summary about what cannot be run here.
note() {
    printf '%-40s %s\n' "$1" "$2" | tee -a "$work/summary.txt"
}

# NAME: one of the Python scripts; it knows how long it has.
script() {
    attempt "$1" "$python" -u "tests/bench/gpu_$1.py" --bin "$built/bin" --work "$work/$1" --json "$work/$1.json" \
        --seconds $((step_ends - SECONDS - 5)) ${dry:+--rehearse}
}

# EXECUTABLE [FILTER]: whether it has such tests.
has_tests() {
    attempt "$(basename "$1") ${2:-}: listed" bash -c '"$@" --list --format terse | grep -c ": test$"' _ "$@"
}

tests_step() {
    local test
    for test in "$built"/tests/*.*; do
        if [ -n "$dry" ]; then
            has_tests "$test"
        else
            attempt "$(basename "$test")" env NNU_TEST_CUDA=1 "$test" --test-threads 8
        fi
    done
}

network_step() { script network; }
inference_step() { script inference; }
data_step() { script data; }

# On the operations' tests: small tensors, every kernel.
sanitizer_step() {
    local tool arguments
    for tool in memcheck racecheck synccheck; do
        for arguments in net.lib\ cuda::tests:: kernels.device_functions; do
            set -- $arguments
            if [ -n "$dry" ]; then
                has_tests "$built/tests/$1" ${2:+"$2"}
            elif ! command -v compute-sanitizer > /dev/null; then
                note "$tool" "left out: there is no compute-sanitizer"
            else
                attempt "$tool $1" env NNU_TEST_CUDA=only compute-sanitizer --tool "$tool" --error-exitcode 9 \
                    "$built/tests/$1" ${2:+"$2"} --test-threads 4
            fi
        done
    done
}

profile_step() {
    local metrics=gpu__time_duration.sum,sm__throughput.avg.pct_of_peak_sustained_elapsed
    metrics+=,dram__throughput.avg.pct_of_peak_sustained_elapsed
    local size=(--features 32,64,128,256,320,320 --patch 128,128,128 --batch 2)
    [ -z "$dry" ] || size=(--features 8,16 --patch 16,16,16 --batch 1)
    local bench=("$built/bin/nnu-net" bench "${size[@]}" --repetitions 1)
    if [ -n "$dry" ]; then
        attempt "profile: the program" "${bench[@]}" --device cpu
        cp tests/bench/gpu_ncu_sample.csv "$work/kernels.csv"
    elif ! command -v ncu > /dev/null; then
        note profile "left out: there is no ncu"
    else
        attempt profile ncu --csv --page raw --metrics "$metrics" --clock-control none --cache-control none \
            --graph-profiling node --log-file "$work/kernels.csv" "${bench[@]}" --device cuda:0 --precision bf16
        cp "$work/kernels.csv" "$out/" 2> /dev/null || true
    fi
}

versions() {
    echo "nnu $(cat "$built/commit"), $(date -u +%Y-%m-%d), tests/gpu.sh run${dry:+ --dry}${only:+ --only $only}"
    if [ -n "$dry" ]; then
        echo "REHEARSAL on a CPU at tiny sizes: none of these numbers is a measurement"
    else
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
        nvcc --version | tail -n 1 || true
    fi
    "$python" -c 'import sys, torch, numpy
print(f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, NumPy {numpy.__version__}")'
    sed -n 's/^model name\s*: //p' /proc/cpuinfo | uniq -c
}

# Time is shared out by these weights among the steps still to come, so what one saves the others have.
declare -A weight=([tests]=100 [network]=170 [inference]=140 [data]=60 [sanitizer]=60 [profile]=40)

run() {
    local step sum later
    [ -d "$built/bin" ] || { echo "gpu.sh: there is no $built; make it with tests/gpu.sh build" >&2; exit 3; }
    if [ -z "$dry" ] && [[ $(nvidia-smi -L 2> /dev/null) != GPU* ]]; then
        echo "gpu.sh: there is no card here (nvidia-smi lists none); --dry rehearses without one" >&2
        exit 3
    fi
    mkdir -p "$out"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    log=$out/log.txt
    : > "$log"
    : > "$work/summary.txt"
    ends=$((SECONDS + ${SECONDS_IN_ALL:-570}))
    export PATH=$PATH:/usr/local/cuda/bin PYTHONPATH=$root/$built/site${PYTHONPATH:+:$PYTHONPATH}
    # Kernels are compiled once, in the first test; nothing is left behind.
    export XDG_CACHE_HOME=$work/cache nnUNet_raw=$work nnUNet_preprocessed=$work nnUNet_results=$work
    ln -sfn "$root" "$link"
    versions | tee "$work/versions.txt"
    for step in "${steps[@]}"; do
        sum=0
        for later in "${steps[@]}"; do
            # What came before doesn't count.
            [ "$later" != "$step" ] || sum=0
            sum=$((sum + weight[$later]))
        done
        step_ends=$((SECONDS + (ends - SECONDS) * weight[$step] / sum))
        "${step}_step"
    done
    "$python" tests/bench/gpu_report.py "$work" "$out" | tee -a "$log"
    echo "gpu.sh: $out/results.md, results.json, log.txt; $SECONDS s"
    exit "$failed"
}

# ---- arguments ----------------------------------------------------------------------------------------------------------

failed=0 dry='' only='' out=$built/results
command=${1:-}
[ $# = 0 ] || shift
while [ $# -gt 0 ]; do
    case $1 in
        --dry) dry=yes ;;
        --out) out=${2:?--out DIR}; shift ;;
        --only) only=${2:?--only STEP,STEP}; shift ;;
        *) echo "gpu.sh: unknown option $1; tests/gpu.sh --help" >&2; exit 2 ;;
    esac
    shift
done
if [ -n "$only" ]; then
    IFS=, read -ra steps <<< "$only"
    for step in "${steps[@]}"; do
        [ -n "${weight[$step]:-}" ] || { echo "gpu.sh: --only $step: there is no such step" >&2; exit 2; }
    done
fi
case $command in
    build) build ;;
    run) run ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
esac
