"""A segmenter as others can use it: a bundle for auricle, a MONAI bundle or an ONNX file."""

from pathlib import Path
from typing import Any

from auricle.core.checksums import write_checksums
from auricle.core.files import read_json, write_json, write_text
from auricle.stages import finetune
from auricle.stages.finetune import Trained
from auricle.stages.model_card import model_card
from auricle.stages.monai_bundle import write_configs
from auricle.stages.onnx_file import write_onnx
from auricle.stages.weights import label_table, pack_model

_USE = {
    "bundle": """```
auricle segment SCAN --model THIS_FOLDER --out RESULT
```

works offline. `model.safetensors` and `model.json` are the weights and what they are, `labels.json` the label table, `SHA256SUMS` the
hashes that are checked on loading.""",
    "monai": """```
pip install "monai[fire,ignite]"
cd THIS_FOLDER
python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir RESULTS
```

works offline where auricle is installed too: every scan in the folder SCANS (NIfTI files, folders of DICOM series) gives a label map
in RESULTS. The folder `models` is a bundle of auricle and serves `auricle segment --model` too. The weights are safetensors, which MONAI cannot
load by itself: reading and resampling of scans, the network and the second look are auricle's, named in `configs/inference.json`; MONAI
does the rest.""",
    "onnx": """`model.onnx` maps `image`, float32 (1, 1, X, Y, Z), to `logits` (1, 9, X, Y, Z); edges may be any multiples of the number in
`model.onnx.json`, which also holds spacing, HU scaling and label table. What stands under Input is up to you. Give it windows as large
as in training: its normalization looks at the whole window.""",
}


def write_bundle(source: Path, folder: Path, half: bool) -> None:
    """Write ``model.safetensors``, ``model.json``, ``labels.json`` and the model card of the segmenter in `source` into `folder`."""
    pack_model(source, "finetune", folder, half=half)
    write_json(folder / "labels.json", label_table())
    _write_card(source, folder, "bundle", finetune.load(folder), read_json(folder / "model.json"))


def write_monai(source: Path, folder: Path, half: bool) -> None:
    """Write a MONAI bundle: ``configs/``, ``models/`` (a bundle of auricle) and ``docs/README.md``."""
    write_bundle(source, folder / "models", half)
    # Hashes of its own: `models` is read alone, and proves itself unaltered then.
    write_checksums(folder / "models")
    model, facts = finetune.load(folder / "models"), read_json(folder / "models" / "model.json")
    write_configs(folder / "configs", model)
    _write_card(source, folder / "docs", "monai", model, facts)


def write_onnx_folder(source: Path, folder: Path) -> None:
    """Write ``model.onnx``, ``model.onnx.json`` and the model card."""
    model, identity = finetune.load(source), finetune.identity(source)
    write_onnx(model, folder, identity)
    _write_card(source, folder, "onnx", model, read_json(source / "model.json"))


def _write_card(source: Path, folder: Path, kind: str, model: Trained, facts: dict[str, Any]) -> None:
    write_text(folder / "README.md", model_card(source, model, facts, _USE[kind]))
