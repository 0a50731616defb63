#!/usr/bin/env bash
# Many small cases through every stage: memory and open files must not grow with their number.
#   tests/soak.sh [N=2000]        BIN=folder of the programs [target/release]
# The first quarter, half, three quarters and all of N phantoms go through all stages, each time anew. Prints, per stage, the
# peak memory of its own (RssAnon of /proc/PID/status: without the cases that training and augmentation map, which the system
# takes back as it likes) and the most open descriptors (/proc/PID/fd), both looked at every 10 ms. Exit code 1 if
# a stage opens more files for all than for a quarter, or takes more than 16 KiB a case more memory: a case's entry in lists and
# records (a training keeps the records of all its cases), less than the smallest of its arrays, 27 KiB. 4 MiB more are the
# allocators', and peaks between two looks.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-2000}
bin=$(realpath "${BIN:-target/release}")
work=$(mktemp -d "${TMPDIR:-/tmp}/nnu_soak.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
declare -A memory files seconds
stages=()

# soak STAGE PROGRAM ARGUMENTS...: runs the program, notes its peaks.
soak() {
  local stage=$1 peak=0 most=0 begin=$EPOCHREALTIME
  shift
  [[ " ${stages[*]} " == *" $stage "* ]] || stages+=("$stage")
  "$bin/$1" "${@:2}" -q > "log_$stage" 2>&1 &
  local pid=$! name value
  while [ -e "/proc/$pid/fd" ]; do
    while read -r name value _; do
      if [ "$name" = RssAnon: ] && ((value > peak)); then peak=$value; fi
    done 2> /dev/null < "/proc/$pid/status" || true
    local open=(/proc/"$pid"/fd/*)
    if ((${#open[@]} > most)); then most=${#open[@]}; fi
    # Ended, and not yet waited for; or gone.
    { read -r value < "/proc/$pid/stat" && [[ $value != *") Z "* ]]; } || break
    sleep 0.01
  done 2> /dev/null
  wait "$pid" || { echo "$stage of $n cases failed:"; cat "log_$stage"; exit 1; }
  memory[$stage,$n]=$peak
  files[$stage,$n]=$most
  seconds[$stage,$n]=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
}

"$bin/nnu-phantom" -q --training "$cases" --test 1 --shape 12,24,24 --spacing 3,1.2,1.2 --out all
quarters=($((cases / 4)) $((cases / 2)) $((cases * 3 / 4)) "$cases")
for n in "${quarters[@]}"; do
  rm -rf data run
  mkdir -p data/imagesTr data/labelsTr run
  i=0
  for label in all/labelsTr/*; do
    if ((i == n)); then break; fi
    i=$((i + 1))
    name=$(basename "$label" .nii.gz)
    ln "$label" data/labelsTr/
    ln "all/imagesTr/$name.nii.gz" "data/imagesTr/${name}_0000.nii.gz"
  done
  printf '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": %d, "file_ending": ".nii.gz"}' \
    "$n" > data/dataset.json
  of="--cases run/cases --plan run/plan.toml --configuration 3d_fullres"
  soak fingerprint nnu-fingerprint --dataset data --out run/fingerprint.toml
  soak plan nnu-plan --fingerprint run/fingerprint.toml --recipe v2 --folds 2 --set planning.base_features=4 \
    --set configurations.3d_fullres.batch_size=2 --set schedule.validation_iterations=2 --out run/plan.toml
  soak preprocess nnu-preprocess --dataset data --plan run/plan.toml --configuration 3d_fullres --out run/cases
  # shellcheck disable=SC2086
  soak augment nnu-augment $of --fold 0 --batches $((1 + n / 10)) --out run/batches
  # shellcheck disable=SC2086
  soak train nnu-train $of --fold 0 --epochs 1 --iterations $((1 + n / 10)) --device cpu --precision f32 --no-validation --out run/model
  soak infer nnu-infer --model run/model --images data/imagesTr --no-mirroring --device cpu --precision f32 --out run/predictions
  soak evaluate nnu-postprocess evaluate --predictions run/predictions --labels data/labelsTr --plan run/plan.toml --out run/summary.toml
  soak fit nnu-postprocess fit --predictions run/predictions --labels data/labelsTr --plan run/plan.toml --out run/postprocess.toml
  soak apply nnu-postprocess apply --predictions run/predictions --postprocessing run/postprocess.toml --out run/final
done

printf '| stage |'
printf ' %s cases |' "${quarters[@]}"
printf '\n|---|'
printf -- '---|%.0s' "${quarters[@]}"
echo
grown=()
for stage in "${stages[@]}"; do
  printf '| %s |' "$stage"
  for n in "${quarters[@]}"; do
    printf ' %.1f MiB, %d files, %s s |' "$((memory[$stage,$n] * 10 / 1024))e-1" "${files[$stage,$n]}" "${seconds[$stage,$n]}"
  done
  echo
  first=${quarters[0]} last=${quarters[3]}
  if ((files[$stage,$last] > files[$stage,$first] + 2 || memory[$stage,$last] - memory[$stage,$first] > 4096 + 16 * (last - first))); then
    grown+=("$stage")
  fi
done
[ ${#grown[@]} -eq 0 ] || { echo "grew with the number of cases: ${grown[*]}"; exit 1; }
