"""Trains the same network in every precision of this CPU over three seeds and prints the pseudo-Dice after each epoch: what
`--precision auto` rests on. Task04_Hippocampus, recipe v2, 3d_fullres, fold 0, batch 2, 10 epochs of 25 iterations.

    python precision.py BIN DATA WORK        (folders: release programs, data sets, intermediate files; an hour on 2 cores)
"""

import pathlib
import re
import subprocess
import sys

PRECISIONS, SEEDS, EPOCHS, ITERATIONS = ("f32", "f32-fast", "bf16"), (1, 2, 3), 10, 25


def main(programs, data, work):
    dataset = data / "Task04_Hippocampus"
    work.mkdir(parents=True, exist_ok=True)

    def run(program, *arguments):
        command = [programs / f"nnu-{program}", *arguments]
        return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stderr

    fingerprint, plan, cases = work / "fingerprint.toml", work / "plan.toml", work / "cases"
    run("fingerprint", "--dataset", dataset, "--out", fingerprint)
    batch = "configurations.3d_fullres.batch_size=2"
    run("plan", "--fingerprint", fingerprint, "--recipe", "v2", "--set", batch, "--out", plan)
    run("preprocess", "--dataset", dataset, "--plan", plan, "--configuration", "3d_fullres", "--out", cases)
    fixed = ["--cases", cases, "--plan", plan, "--configuration", "3d_fullres", "--fold", 0, "--no-validation"]
    fixed += ["--epochs", EPOCHS, "--iterations", ITERATIONS, "--device", "cpu"]
    print(f"| precision | seed | {' | '.join(str(epoch + 1) for epoch in range(EPOCHS))} |")
    print("|---|---|" + "---|" * EPOCHS)
    for precision in PRECISIONS:
        for seed in SEEDS:
            out = work / f"{precision}-{seed}"
            log = run("train", *fixed, "--precision", precision, "--seed", seed, "--force", "--out", out)
            epochs = re.findall(r"pseudo-Dice \S+ ([\d.]+), \S+ ([\d.]+)", log)
            means = [f"{(float(a) + float(b)) / 2:.3f}" for a, b in epochs]
            print(f"| {precision} | {seed} | {' | '.join(means)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(pathlib.Path(argument).resolve() for argument in sys.argv[1:]))
