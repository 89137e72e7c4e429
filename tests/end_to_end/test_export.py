"""A segmenter that goes out works elsewhere: offline, to the same labels, and only while nobody has altered it."""

import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from auricle import cli
from auricle.core.anatomy import ID
from auricle.core.checksums import SUMS, read_checksums, write_checksums
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.runs import Run, fingerprint_of
from auricle.data.labels import read_label
from auricle.data.nifti import write_nifti
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.phantom import virtual_patient
from auricle.stages import export, finetune, segment
from auricle.stages.export import ExportStage
from auricle.stages.pairs import Grid
from auricle.stages.weights import save_model

GRID = Grid((32, 32, 32), (5.0, 5.0, 5.0))
CONFIG = SegmenterConfig(channels=(4, 8, 8), supervision=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an untrained segmenter, whose weights are all different from zero, and its evaluation."""
    root = tmp_path_factory.mktemp("runs") / "mine"
    this = Run(root / "finetune" / "ours", "finetune", {"cohort": "/secret/DOE/cohort", "pretrained": None, "seed": 5}, {})
    this.begin()
    torch.manual_seed(0)
    network = Segmenter(CONFIG, outputs=9)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=0.3)
    training = {"steps": 40, "best_step": 30, "dice": 0.8125, "labeled": 12, "generated": 36}
    save_model(this, network, {"network": CONFIG, "grid": GRID, "patch": None, "mirrored": False, "training": training})
    this.finish()
    write_json(root / "run.json", {"recipe": "laptop", "seed": 5, "version": "0.1.0", "command": "auricle run --data /secret/DOE"})
    write_json(root / "evaluate" / "ours" / "summary.json", {"cases": 7, "dice": {"mean": 0.777, "LAA": 0.555, "LV": None}})
    return root


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One oblique scan of a virtual patient, alone in its folder."""
    folder = tmp_path_factory.mktemp("scans")
    case = virtual_patient(4711, 100, (50, 50, 50), (3.0, 3.0, 3.0), contrast="chase", pathology=False)
    turn = np.eye(4)
    turn[:2, :2] = [[0.98, -0.199], [0.199, 0.98]]
    turn[:2, :2] /= np.sqrt(0.98**2 + 0.199**2)
    write_nifti(folder / "scan.nii.gz", case.image, turn @ case.affine, dtype=np.int16)
    return folder / "scan.nii.gz"


@pytest.fixture(scope="module")
def onnx(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return export.run(ExportStage(run, "onnx"), tmp_path_factory.mktemp("onnx") / "out")


@pytest.fixture(scope="module")
def shipped(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """What `auricle segment` says of the scan with the segmenter that ships: label map and affine."""
    out = tmp_path_factory.mktemp("segmented") / "out"
    segment.run(segment.SegmentStage(scan, finetune.DEFAULT_MODEL), out)
    label, affine, _ = read_label(out / "labels.nii.gz")
    assert (label == ID["LV"]).sum() > 1000
    return label, affine


def altered(source: Path, target: Path, name: str, text: str) -> Path:
    """A bundle with one file changed, and with hashes that agree to it: as another version of auricle would have made it."""
    export.run(ExportStage(source), target)
    (target / name).write_text(text)
    write_checksums(target)
    return target


def test_a_bundle_segments_as_the_segmenter_it_came_from(
    scan: Path, shipped: tuple[NDArray[np.uint8], NDArray[np.float64]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The segmenter that ships, by the command line, there and back."""
    bundle = tmp_path / "bundle"
    cli.main(["export", "-o", str(bundle), "--quiet"])
    assert capsys.readouterr().out.strip() == str(bundle)
    assert sorted(p.name for p in bundle.iterdir()) == ["README.md", SUMS, "labels.json", "model.json", "model.safetensors"]
    assert finetune.identity(bundle) == finetune.identity(finetune.DEFAULT_MODEL)
    cli.main(["segment", str(scan), "-o", str(tmp_path / "out"), "--model", str(bundle), "--quiet"])
    assert np.array_equal(read_label(tmp_path / "out" / "labels.nii.gz")[0], shipped[0])


def test_the_bundle_of_a_run_holds_its_arm_and_says_what_it_is(run: Path, tmp_path: Path) -> None:
    out = export.run(ExportStage(run), tmp_path / "bundle")
    before, after = (finetune.load(folder).network.state_dict() for folder in (run / "finetune" / "ours", out))
    assert all(torch.equal(before[k], after[k]) for k in before)
    card = (out / "README.md").read_text()
    labeled = "| labeled training items | 12 |"
    for part in ("research only", "laptop", labeled, "0.812", "7 cases", "0.777", "5 x 5 x 5 mm", "32 x 32 x 32 voxels", "33626005"):
        assert part in card
    assert "DOE" not in card + (out / "model.json").read_text()
    assert [row["key"] for row in read_json(out / "labels.json")][1:] == list(ID)


def test_a_bundle_of_a_bundle_is_the_same(run: Path, tmp_path: Path) -> None:
    first = export.run(ExportStage(run), tmp_path / "first")
    second = export.run(ExportStage(first), tmp_path / "second")
    assert read_checksums(first) == read_checksums(second)
    third = export.run(ExportStage(first, "monai"), tmp_path / "third")
    card = (third / "docs" / "README.md").read_text()
    assert "monai.bundle run" in card
    assert card.count("## Use") == 1
    assert "## Figures" in card


def test_the_card_names_the_weights_beside_it_and_the_cohort_of_its_run(run: Path, tmp_path: Path) -> None:
    first = export.run(ExportStage(run), tmp_path / "first")
    half = export.run(ExportStage(first, half=True), tmp_path / "half")
    for folder in (first, half):
        assert f"weights: `{read_json(folder / 'model.json')['sha256']}`" in (folder / "README.md").read_text()
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    cases = [{"id": str(i), "split": "train"} for i in range(3)]
    for number, where in enumerate((moved, tmp_path / "another")):
        cohort = Run(where / "cohort", "cohort", {"number": number}, {})
        cohort.begin()
        write_json(where / "cohort" / "cases.json", {"cases": cases[: 3 - number]})
        cohort.finish()
    config = read_json(moved / "finetune" / "ours" / "config.json")
    for at, named in ((moved, "3 cases"), (tmp_path / "another", "2 cases")):
        config["config"]["cohort"], config["inputs"]["cohort"] = str(tmp_path / "another" / "cohort"), fingerprint_of(at / "cohort")
        write_json(moved / "finetune" / "ours" / "config.json", config)
        assert f"| cohort | {named}" in (export.run(ExportStage(moved), tmp_path / f"card of {named}") / "README.md").read_text()


def test_half_precision_halves_the_weights(run: Path, tmp_path: Path) -> None:
    full, half = (export.run(ExportStage(run, half=h), tmp_path / str(h)) for h in (False, True))
    sizes = [(f / "model.safetensors").stat().st_size for f in (full, half)]
    assert sizes[1] < 0.65 * sizes[0]
    for a, b in zip(*(finetune.load(f).network.state_dict().values() for f in (full, half)), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def test_no_file_of_any_model_format_holds_a_pickle(onnx: Path, run: Path, tmp_path: Path) -> None:
    for out in (onnx, *(export.run(ExportStage(run, kind), tmp_path / kind) for kind in ("bundle", "monai"))):  # type: ignore[arg-type]
        for path in (p for p in out.rglob("*") if p.is_file()):
            assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"), path
            assert path.suffix in (".json", ".md", ".safetensors", ".onnx", "")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "labels.json", "README.md"])
def test_an_altered_file_is_refused_and_its_hash_named(run: Path, tmp_path: Path, name: str) -> None:
    """Fault 28."""
    out = export.run(ExportStage(run), tmp_path / "bundle")
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: was altered: its SHA-256 is [0-9a-f]{{16}}\.\., SHA256SUMS says"):
        finetune.load(out)


def test_weights_changed_together_with_the_list_of_hashes_are_still_refused(run: Path, tmp_path: Path) -> None:
    out, other = (export.run(ExportStage(run, half=h), tmp_path / str(h)) for h in (False, True))
    (out / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    write_checksums(out)
    with pytest.raises(InputError, match=r"not the file that model\.json describes"):
        finetune.load(out)


def test_a_pickle_renamed_as_weights_is_refused_and_never_run(run: Path, tmp_path: Path) -> None:
    """Fault 28."""

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    out = export.run(ExportStage(run), tmp_path / "bundle")
    (out / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    write_checksums(out)
    with pytest.raises(InputError, match="is not a safetensors file"):
        finetune.load(out)
    assert not (tmp_path / "sprung").exists()


def test_another_label_table_is_refused_with_the_difference(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fault 29, as a user meets it."""
    text = (export.run(ExportStage(run), tmp_path / "a") / "labels.json").read_text()
    out = altered(run, tmp_path / "b", "labels.json", text.replace('"LA"', '"swap"').replace('"LV"', '"LA"').replace('"swap"', '"LV"'))
    with pytest.raises(SystemExit) as stop:
        cli.main(["segment", str(tmp_path), "-o", str(tmp_path / "out"), "--model", str(out), "--quiet"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "another label table" in error
    assert "2: LV -> LA; 3: LA -> LV" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("    4,\n", "    6,\n", "weights do not fit the network .*size mismatch"),
        ('"blocks"', '"block"', r"model\.json: network: unknown fields \['block'\], missing fields \['blocks'\]"),
        ('"grid"', '"grit"', r"model\.json: grid: expected the fields of Grid"),
        ('"finetune"', '"diffusion"', "holds a model of `auricle diffusion`"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(run: Path, tmp_path: Path, old: str, new: str, named: str) -> None:
    """Fault 29."""
    text = (export.run(ExportStage(run), tmp_path / "a") / "model.json").read_text()
    assert old in text
    with pytest.raises(ValueError, match=named):
        finetune.load(altered(run, tmp_path / "b", "model.json", text.replace(old, new, 1)))


def test_a_zipped_bundle_works_once_unpacked(run: Path, tmp_path: Path) -> None:
    packed = export.run(ExportStage(run), tmp_path / "bundle.zip")
    with pytest.raises(InputError, match="unpack it first"):
        segment.resolve_model(packed)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    assert finetune.identity(segment.resolve_model(tmp_path / "bundle")) == finetune.identity(run / "finetune" / "ours")
    finetune.load(tmp_path / "bundle")


@pytest.mark.parametrize("size", [(8, 8, 8), (24, 40, 16), (32, 32, 32)])
def test_onnxruntime_gives_the_labels_of_torch_on_any_grid(onnx: Path, run: Path, size: tuple[int, int, int]) -> None:
    import onnxruntime

    facts = read_json(onnx / "model.onnx.json")
    assert all(n % facts["input"]["edges_multiple_of"] == 0 for n in size)
    image = np.random.default_rng(sum(size)).uniform(-1, 1, (1, 1, *size)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(onnx / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run([facts["output"]["name"]], {facts["input"]["name"]: image})[0]
    with torch.no_grad():
        wanted = finetune.load(run / "finetune" / "ours").network(torch.from_numpy(image)).cpu().numpy()
    assert found.shape == (1, 9, *size)
    assert np.abs(found - wanted).max() < 1e-3 * max(1.0, np.abs(wanted).max())
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.9999
    assert len(np.unique(wanted.argmax(1))) > 2


def test_the_sidecar_says_what_goes_in_and_what_comes_out(onnx: Path, run: Path) -> None:
    import onnx as library

    facts = read_json(onnx / "model.onnx.json")
    assert facts["input"]["spacing_mm"] == [5.0, 5.0, 5.0]
    assert facts["input"]["edges_multiple_of"] == CONFIG.multiple == 8
    assert facts["input"]["scaling"] == {"clip_hu": [-1000.0, 1000.0], "divide_by": 1000.0, "outside_hu": -1024}
    assert [row["key"] for row in facts["labels"]] == ["background", *ID]
    assert facts["model_sha256"] == finetune.identity(run / "finetune" / "ours")
    graph = library.load(onnx / "model.onnx")
    assert {i.domain: i.version for i in graph.opset_import}[""] == facts["opset"]
    # Where this machine keeps its source files is nobody's business.
    assert b"auricle/" not in (onnx / "model.onnx").read_bytes()


def test_a_missing_package_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match="pip install onnx onnxscript"):
        export.run(ExportStage(run, "onnx"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_monai_runs_its_bundle_to_the_labels_of_auricle(
    scan: Path, shipped: tuple[NDArray[np.uint8], NDArray[np.float64]], tmp_path: Path
) -> None:  # fmt: skip
    """As a colleague does, in a process of its own; on an oblique scan of another spacing, which has to be resampled there and back."""
    pytest.importorskip("fire")
    pytest.importorskip("ignite")
    bundle = export.run(ExportStage(format="monai"), tmp_path / "bundle")
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    said = subprocess.run(
        [sys.executable, *command, "--dataset_dir", str(scan.parent), "--output_dir", str(tmp_path / "out")],
        cwd=bundle, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    found, affine, _ = read_label(tmp_path / "out" / "scan_labels.nii.gz")
    wanted, place = shipped
    assert np.allclose(affine, place, atol=1e-5)
    for key, value in ID.items():
        a, b = found == value, wanted == value
        assert 2 * (a & b).sum() >= 0.99 * (a.sum() + b.sum()), key


def test_the_networks_data_format_is_what_monai_finds(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("fire")
    from monai.bundle import verify_net_in_out

    bundle = export.run(ExportStage(run, "monai"), tmp_path / "bundle")
    verify = {"meta_file": str(bundle / "configs" / "metadata.json"), "config_file": str(bundle / "configs" / "inference.json")}
    verify_net_in_out("network_def", n=2, device="cpu", bundle_root=str(bundle), **verify)
    facts = read_json(bundle / "configs" / "metadata.json")["network_data_format"]
    assert facts["outputs"]["pred"]["channel_def"]["8"] == "left atrial appendage"
    assert finetune.identity(bundle / "models") == finetune.identity(run / "finetune" / "ours")
