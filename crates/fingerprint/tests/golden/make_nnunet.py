"""Foreground intensities as nnU-Net's own fingerprint extractor finds them: nnunet.json.

    python make_nnunet.py SHARED_DATA      # nnunetv2; writes beside itself. Takes minutes and 6 GB for four channels

Per data set: the number of cases, of voxels that nnU-Net draws from each of them, and its statistics per channel.
"""
import json
import os
import pathlib
import sys
import tempfile
from importlib import metadata

HERE = pathlib.Path(__file__).parent
SETS = ["Task04_Hippocampus", "sts_ct", "sts_mr_t1", "ms_lesion_4mod", "totalseg_ct3mm", "totalseg_mr3mm",
        "spleen2_crop_ct", "stroke_flair_oblique", "sct_t2s_aniso"]


def link(source, folder):
    """The data set in nnU-Net's layout."""
    about = json.loads((source / "dataset.json").read_text())
    decathlon = "modality" in about
    for part in ["imagesTr", "labelsTr"]:
        (folder / part).mkdir(parents=True)
        for path in (source / part).glob("[!.]*.nii.gz"):
            name = path.name
            if decathlon and part == "imagesTr":
                name = name.replace(".nii.gz", "_0000.nii.gz")
            (folder / part / name).symlink_to(path)
    if decathlon:
        about = {"channel_names": about["modality"], "file_ending": ".nii.gz", "numTraining": about["numTraining"],
                 "labels": {name: int(value) for value, name in about["labels"].items()}}
    (folder / "dataset.json").write_text(json.dumps(about))


def main():
    shared = pathlib.Path(sys.argv[1]).resolve()
    root = pathlib.Path(tempfile.mkdtemp())
    for part in ["raw", "preprocessed", "results"]:
        (root / part).mkdir()
        os.environ[f"nnUNet_{part}"] = str(root / part)
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    found = {}
    for number, name in enumerate(SETS, 900):
        link(shared / name, root / "raw" / f"Dataset{number}_T")
        extractor = DatasetFingerprintExtractor(number, num_processes=1)
        properties = extractor.run()["foreground_intensity_properties_per_channel"]
        cases = len(extractor.dataset)
        drawn = int(extractor.num_foreground_voxels_for_intensitystats // cases)
        found[name] = {"cases": cases, "drawn_per_case": drawn, "channels": [properties[c] for c in sorted(properties)]}
        print(name, found[name], flush=True)
    (HERE / "nnunet.json").write_text(json.dumps(found, indent=1) + "\n")
    versions = [f'{name} = "{metadata.version(name)}"' for name in ["nnunetv2", "numpy", "SimpleITK"]]
    (HERE / "PROVENANCE_nnunet.toml").write_text('made_by = "make_nnunet.py SHARED_DATA"\n\n[with]\n' + "\n".join(versions) + "\n")


if __name__ == "__main__":
    main()
