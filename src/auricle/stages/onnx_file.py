"""A segmenter as an ONNX file with a JSON sidecar that says what goes in and what comes out."""

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auricle import __version__
from auricle.core import progress
from auricle.core.checksums import file_hash
from auricle.core.errors import InputError
from auricle.core.files import atomic_path, write_json
from auricle.data.preprocess import AIR_HU, CLIP_HU
from auricle.models.blocks import Conv3d
from auricle.stages.finetune import Trained
from auricle.stages.weights import label_table

OPSET = 20
IR_VERSION = 10
"""Read by onnxruntime 1.18 (2024) and later."""
LARGEST_DIFFERENCE = 1e-3
"""A file whose logits differ from PyTorch's on a test volume by more than this share of the largest is not handed out; rounding gives about 1e-5."""


class Logits(nn.Module):
    """A segmenter without what tracing cannot follow: its check of the grid, and the convolution's detour for small volumes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.encoder, self.decoder = plain.encoder, plain.decoder
        for module in self.modules():
            if isinstance(module, Conv3d):
                # The same weights and arithmetic, by another name.
                module.__class__ = nn.Conv3d  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        """Map (1, 1, X, Y, Z) in network units to logits (1, 9, X, Y, Z)."""
        out: Tensor = self.decoder(self.encoder(image))[0]
        return out


def write_onnx(model: Trained, folder: Path, identity: str) -> None:
    """Write ``model.onnx`` and ``model.onnx.json`` into `folder`, once onnxruntime has been seen to agree with PyTorch where it is installed.

    Args:
        model: the segmenter.
        folder: where.
        identity: SHA-256 of the weights, for the sidecar.

    Raises:
        InputError: a package is missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError:
        raise InputError("--format onnx needs onnx and onnxscript; install them with: pip install onnx onnxscript") from None
    step = model.network.config.multiple
    with progress.bar("onnx", 3) as update:
        logits = Logits(model.network).eval()
        graph = _trace(logits, step)
        update(1, {})
        _strip(graph)
        graph.ir_version = IR_VERSION
        onnx.checker.check_model(graph, full_check=True)
        with atomic_path(folder / "model.onnx") as temporary:
            onnx.save(graph, temporary)
        update(2, {})
        _compare(logits, folder / "model.onnx", step)
        write_json(folder / "model.onnx.json", _sidecar(model, folder / "model.onnx", identity, step))
        update(3, {})


def _trace(logits: Logits, step: int) -> Any:
    """The network as an ONNX graph whose three spatial axes are free multiples of `step`."""
    axes = {i + 2: step * torch.export.Dim(name, min=1, max=1024 // step) for i, name in enumerate("xyz")}
    # Edges that differ from each other and from the smallest, so that no two axes are taken for the same.
    example = torch.zeros(1, 1, 3 * step, 4 * step, 5 * step)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                logits, (example,), dynamo=True, dynamic_shapes={"image": axes}, input_names=["image"], output_names=["logits"],
                opset_version=OPSET, verbose=False,
            )  # fmt: skip
    finally:
        quiet.setLevel(level)
    assert program is not None
    return program.model_proto


def _strip(graph: Any) -> None:
    """Drop the notes of the exporter, which name source files of this machine."""
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.value_info, *graph.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _compare(logits: Logits, path: Path, step: int) -> None:
    """Stop (`RuntimeError`) where onnxruntime, if installed, gives other logits than PyTorch on a grid that the export did not see."""
    try:
        import onnxruntime
    except ImportError:
        return
    image = np.random.default_rng(0).uniform(-1, 1, (1, 1, 4 * step, 2 * step, 3 * step)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = logits(torch.from_numpy(image)).numpy()
    gap = float(np.abs(session.run(None, {"image": image})[0] - wanted).max() / np.abs(wanted).max())
    if not gap <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"the logits of the ONNX file differ from the network's by {gap:.3g} of the largest")


def _sidecar(model: Trained, path: Path, identity: str, step: int) -> dict[str, Any]:
    return {
        "research_only": True, "auricle": __version__, "model_sha256": identity, "onnx_sha256": file_hash(path), "opset": OPSET,
        "input": {
            "name": "image", "dtype": "float32", "shape": [1, 1, "X", "Y", "Z"], "edges_multiple_of": step, "axes": "RAS+",
            "spacing_mm": list(model.grid.spacing), "window": list(model.window),
            "scaling": {"clip_hu": [-CLIP_HU, CLIP_HU], "divide_by": CLIP_HU, "outside_hu": AIR_HU},
        },
        "output": {"name": "logits", "dtype": "float32", "shape": [1, len(label_table()), "X", "Y", "Z"], "labels": "argmax over axis 1"},
        "labels": label_table(),
    }  # fmt: skip
