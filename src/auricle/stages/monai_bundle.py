"""Configuration of a MONAI bundle of a segmenter: ``metadata.json`` and ``inference.json``.

The weights stay safetensors, which MONAI's own loaders do not read; a TorchScript archive would do without auricle, but it holds pickled data, and
resampling would have to be written a second time. So the bundle needs auricle beside MONAI. It gives what `auricle segment` gives but for
wide scans, in which that command searches the heart first: there labels differ by a few voxels at the edge of what is looked at.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from auricle import __version__
from auricle.core.files import write_json
from auricle.stages.finetune import Trained
from auricle.stages.weights import label_table

_PARTS = "auricle.stages.monai_parts"


def write_configs(folder: Path, model: Trained) -> None:
    """Write both files into `folder`, the ``configs`` of a bundle whose ``models`` holds the segmenter."""
    write_json(folder / "metadata.json", metadata(model))
    write_json(folder / "inference.json", inference(model))


def metadata(model: Trained) -> dict[str, Any]:
    """What the network takes and gives, in the terms of MONAI's bundle specification."""
    step = model.network.config.multiple
    shape = [f"{step} * n"] * 3
    patch = {"dtype": "float32", "spatial_shape": shape, "is_patch_data": True}
    labels = {str(row["id"]): row["name"] for row in label_table()}
    return {
        "version": __version__, "changelog": {__version__: "exported by auricle"},
        "monai_version": version("monai"), "pytorch_version": version("torch").partition("+")[0], "numpy_version": version("numpy"),
        "required_packages_version": {"auricle": __version__, "pytorch-ignite": "0.5.3", "fire": "0.7.0"},
        "name": "Heart segmentation in CT", "task": "Segmentation of eight structures of the heart in CT",
        "description": "3D U-Net of auricle. For research only, not a medical device.", "authors": "see docs/README.md",
        "copyright": "see docs/README.md", "data_source": "see docs/README.md", "data_type": "nibabel, dicom", "image_classes": "CT in HU",
        "label_classes": ", ".join(f"{k}: {v}" for k, v in labels.items()), "pred_classes": f"{len(labels)} channels, one a label",
        "intended_use": "Research only.", "references": [],
        "network_data_format": {
            "inputs": {"image": {
                "type": "image", "format": "hounsfield", "modality": "CT", "num_channels": 1, "value_range": [-1, 1], **patch,
                "channel_def": {"0": "HU, clipped to -1000..1000 and divided by 1000"},
            }},
            "outputs": {"pred": {
                "type": "image", "format": "logits", "num_channels": len(labels), "value_range": [], **patch, "channel_def": labels,
            }},
        },
    }  # fmt: skip


def inference(model: Trained) -> dict[str, Any]:
    """The configuration of ``python -m monai.bundle run``."""
    grid = {"size": list(model.grid.size), "spacing": list(model.grid.spacing)}
    return {
        "imports": ["$import torch"],
        "bundle_root": ".", "dataset_dir": "$@bundle_root + '/scans'", "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": f"{_PARTS}.network", "folder": "$@bundle_root + '/models'"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": f"{_PARTS}.ReadScan"}, {"_target_": f"{_PARTS}.ToModelGrid", **grid}]},
        "datalist": {"_target_": f"{_PARTS}.scans", "folder": "@dataset_dir"},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": {"_target_": f"{_PARTS}.LookTwice", **grid, "window": list(model.window)},
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": f"{_PARTS}.ToScan", **grid, "parts": model.parts},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "labels", "output_dtype": "$torch.uint8",
             "separate_folder": False, "resample": False},
        ]},
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader", "network": "@network",
            "inferer": "@inferer", "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip
