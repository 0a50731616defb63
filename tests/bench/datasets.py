"""Real data sets in the folders that nnU-Net asks for, made of links."""

import json
import os

SETS = {
    "Task04_Hippocampus": "Task04 Hippocampus, 200 cases",
    "sts_ct": "CT, 18 cases of 175×171×58",
    "sts_mr_t1": "T1 MRI, 12 cases of 141×138×59",
    "ms_lesion_4mod": "4 × MRI, 2 cases of 182×218×182",
}


class Dataset:
    """Data set `name` of the folder `data`, as number `number` of nnU-Net in `work`."""

    def __init__(self, data, work, name, number):
        self.name, self.number, self.title = name, number, SETS[name]
        self.folders = {f"nnUNet_{what}": work / what for what in ("raw", "preprocessed", "results")}
        full = f"Dataset{number:03}_{name.split('_', 1)[1] if name.startswith('Task') else name}"
        self.raw = self.folders["nnUNet_raw"] / full
        self.preprocessed = self.folders["nnUNet_preprocessed"] / full
        for folder in self.folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        if not self.raw.exists():
            self._link(data / name)

    def _link(self, source):
        described = json.loads((source / "dataset.json").read_text())
        decathlon = "modality" in described
        if decathlon:
            described = {
                "channel_names": described["modality"],
                "labels": {label: int(value) for value, label in described["labels"].items()},
                "numTraining": len(described["training"]),
                "file_ending": ".nii.gz",
            }
        for folder in ("imagesTr", "labelsTr"):
            (self.raw / folder).mkdir(parents=True)
            for file in (source / folder).glob("[!.]*.nii.gz"):
                name = file.name
                if decathlon and folder == "imagesTr":
                    name = name.replace(".nii.gz", "_0000.nii.gz")
                os.symlink(file.resolve(), self.raw / folder / name)
        (self.raw / "dataset.json").write_text(json.dumps(described, indent=1))


def datasets(data, work):
    """Those of [`SETS`] that are there."""
    found = [name for name in SETS if (data / name).is_dir()]
    return [Dataset(data, work, name, 901 + number) for number, name in enumerate(found)]
