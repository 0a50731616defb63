# What the rules of the Snakefile ask: which configurations, folds and cases there are, and who needs whom. Texts of users and
# data sets come from functions, since elsewhere Snakemake fills in what stands in braces, and each is quoted for the shell
# (:q); a flag and its value are one word, so that no value is taken for a flag.
import json
import shlex
import tomllib
from pathlib import Path

from snakemake.exceptions import WorkflowError

HERE = Path(workflow.basedir)
# Relative paths are meant from where snakemake was called, `programs` from this folder.
CALLED_FROM = Path(workflow.overwrite_workdir or workflow.workdir_init)
DATA = (CALLED_FROM / config["data"]).resolve()
# A built-in recipe's name, or a file.
RECIPE = CALLED_FROM / config["recipe"]
RECIPE = RECIPE.resolve() if RECIPE.is_file() else config["recipe"]
ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".png")

FULL, LOW, CASCADE = "3d_fullres", "3d_lowres", "3d_cascade_fullres"


def refuse_braces():
    """Snakemake knows no way to write a brace in the name of an input."""
    for path in [DATA / "dataset.json", *recipe_files(None), *images("imagesTr", "labelsTr", "imagesTs")]:
        if "{" in str(path) or "}" in str(path):
            raise WorkflowError(f"{str(path)!r}: Snakemake takes braces in names for wildcards; rename it, or use the Makefile")


def program(name):
    return lambda wildcards: (HERE / config["programs"] / name).resolve()


def data(folder="."):
    return lambda wildcards: DATA / folder


def description(wildcards):
    return DATA / "dataset.json"


def images(*folders):
    """Files of these folders of the data set; hidden ones and others' are none."""
    files = [file for folder in folders for file in sorted((DATA / folder).glob("[!.]*"))]
    return [file for file in files if file.name.endswith(ENDINGS)]


def training_files(wildcards):
    return images("imagesTr", "labelsTr")


def test_files(wildcards):
    return images("imagesTs")


def files_of(wildcards):
    """A case's images and label; the programs look at more than names."""
    case = wildcards.case
    return [f for f in images("imagesTr", "labelsTr") if f.name.startswith((f"{case}.", f"{case}_"))]


def recipe_files(wildcards):
    return [RECIPE] if isinstance(RECIPE, Path) else []


def settings(wildcards):
    """Texts as they are: behind --config every value of a table is one."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in config["set"].items()}
    return [f"--set={key}={text}" for key, text in texts.items()]


def infer_flags(wildcards):
    return shlex.split(config["infer_flags"])


def threads(kind):
    """As set; else the cores of this call; else, where jobs go to other machines, eight."""
    return config["threads"][kind] or getattr(workflow, "_cores", None) or 8


def read(path):
    with open(path, "rb") as file:
        return tomllib.load(file)


def planned():
    """Configurations to compare."""
    plan = read(checkpoints.plan.get().output.plan)
    wanted = config["configurations"]
    return sorted(plan["configurations"]) if wanted == "all" else wanted


def every_fold():
    return list(range(len(read(checkpoints.plan.get().output.splits)["folds"])))


def chosen_folds():
    return every_fold() if config["folds"] == "all" else config["folds"]


def trained():
    """Configurations to compare, and the first stage that the second one needs."""
    names = planned()
    return sorted({*names, LOW}) if CASCADE in names else names


def folds(configuration):
    """A second stage learns from predictions of unseen cases, hence from all folds of the first."""
    return every_fold() if configuration == LOW and CASCADE in planned() else chosen_folds()


def summaries(configuration):
    return [f"validation/{configuration}/fold_{k}/summary.toml" for k in folds(configuration)]


def predictions(configuration, wanted):
    return [f"validation/{configuration}/fold_{k}/predictions" for k in wanted]


def case_folder(wildcards):
    name = wildcards.configuration
    return f"cases/{FULL if name == CASCADE else name}"


def case_records(folder):
    ids = [case["id"] for case in read("fingerprint.toml")["cases"]]
    return [f"{folder}/{id}/case.toml" for id in ids]


def cases_of(wildcards):
    checkpoints.plan.get()
    return case_records(case_folder(wildcards))


def first_stage(wildcards):
    return summaries(LOW) if wildcards.configuration == CASCADE else []


def previous_flags(wildcards):
    if wildcards.configuration != CASCADE:
        return []
    return [f"--previous={folder}" for folder in predictions(LOW, folds(LOW))]


def has_next_stage(wildcards):
    return wildcards.configuration == LOW and CASCADE in planned()


def next_stage_cases(wildcards):
    return case_records(f"cases/{FULL}") if has_next_stage(wildcards) else []


def next_stage_flags(wildcards):
    return [f"--next-stage=cases/{FULL}"] if has_next_stage(wildcards) else []


def probabilities_flag(wildcards):
    """Pairs of configurations are compared by their averaged probabilities."""
    return ["--probabilities"] if len(planned()) > 1 else []


def length_flags(wildcards):
    given = {"--epochs": config["epochs"], "--iterations": config["iterations"]}
    return [f"{flag}={value}" for flag, value in given.items() if value]


def all_summaries(wildcards):
    return [summary for name in trained() for summary in summaries(name)]


def candidate_flags(wildcards):
    folders = {name: ",".join(predictions(name, chosen_folds())) for name in planned()}
    return [f"--candidate={name}={list}" for name, list in folders.items()]


def everything(wildcards):
    wanted = ["selection.toml"]
    if images("imagesTs"):
        wanted.append("test/summary.toml" if (DATA / "labelsTs").is_dir() else "test/predicted")
    return wanted


refuse_braces()
