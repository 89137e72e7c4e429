"""Run folders: skip, resume, refuse, lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import auricle
from auricle.core.errors import InputError
from auricle.core.files import atomic_path, read_json, scratch_folder, write_json
from auricle.core.runs import Run, finished, read_metrics
from auricle.core.seeds import derive, epoch_order, seed_torch


def test_a_finished_run_is_done_for_its_own_configuration_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", "generate", {"a": 1}, {})
    run.begin()
    assert not run.done
    run.finish()
    assert Run(tmp_path / "r", "generate", {"a": 1}, {}).done
    assert read_json(tmp_path / "r" / "done.json")["auricle"] == auricle.__version__
    other = Run(tmp_path / "r", "generate", {"a": 2}, {})
    assert not other.done
    with pytest.raises(InputError, match=r"holds another run \(a: 1 -> 2\)"):
        other.begin()
    with pytest.raises(InputError, match=r"holds another run \(the upstream it was made from has changed\)"):
        Run(tmp_path / "r", "generate", {"a": 1}, {"upstream": "changed"}).begin()


def test_a_run_that_another_process_began_before_the_lock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Run(tmp_path / "r", "generate", {"a": 2}, {})
    lock = late._lock

    def overtaken() -> None:
        write_json(tmp_path / "r" / "config.json", {"stage": "generate", "config": {"a": 1}, "inputs": {}})
        lock()

    monkeypatch.setattr(late, "_lock", overtaken)
    with pytest.raises(InputError, match=r"holds another run \(a: 1 -> 2\)"):
        late.begin()
    assert not (tmp_path / "r" / "lock").exists()


def test_a_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--fit\.learning-rate must be a finite number"):
        Run(tmp_path / "r", "generate", {"a": [1.0], "fit": {"learning_rate": float("inf")}}, {})


def test_two_processes_of_one_number_may_write_one_file(tmp_path: Path) -> None:
    """Two containers that share a folder each have their process 1."""
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_seeds_of_any_size_start_pytorch() -> None:
    drawn = []
    for seed in (0, 3, 2**70 + 3, -1):
        seed_torch(seed)
        drawn.append(float(torch.rand(())))
    torch.manual_seed(3)
    assert drawn[1] == float(torch.rand(()))
    assert len(set(drawn)) >= 3


def test_a_folder_of_another_stage_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", "generate", {}, {})
    run.begin()
    with pytest.raises(InputError, match="no finished generate"):
        finished(tmp_path / "r", "generate")
    run.finish()
    assert finished(tmp_path / "r", "generate") == run.fingerprint
    with pytest.raises(InputError, match="not of `auricle diffusion`"):
        finished(tmp_path / "r", "diffusion")


def test_a_live_owner_keeps_the_lock_and_a_dead_one_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    code = """
import sys
from pathlib import Path
from auricle.core.runs import Run
run = Run(Path(sys.argv[1]), "generate", {}, {})
run.begin()
print("held", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {owner.pid}"):
            Run(folder, "generate", {}, {}).begin()
        owner.kill()
    run = Run(folder, "generate", {}, {})
    run.begin()
    assert (folder / "lock").read_text() == str(os.getpid())
    run.finish()
    assert not (folder / "lock").exists()


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """A number that lives belongs to a process that may be writing; our own is one that an earlier container used."""
    dead, alive, own = 2**22 + 7, os.getppid(), os.getpid()
    for pid in (dead, alive, own):
        (tmp_path / f".{pid}.last.safetensors").write_text("half")
    (tmp_path / ".hidden").write_text("the user's")
    Run(tmp_path, "generate", {}, {}).begin()
    assert {p.name for p in tmp_path.glob(".*")} == {f".{alive}.last.safetensors", ".hidden"}
    (tmp_path / f".{own}.out").mkdir()
    with scratch_folder(tmp_path / "out") as temporary:
        assert list(temporary.iterdir()) == []


def test_metrics_rewind_and_survive_a_torn_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", "generate", {}, {})
    run.begin()
    for step in (1, 2, 3):
        run.log(step=step, loss=1.0 / step)
    with (run.folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 4, "lo')
    assert [r["step"] for r in read_metrics(run.folder)] == [1, 2, 3]
    run.rewind(2)
    run.log(step=3, loss=0.0)
    assert [r["step"] for r in read_metrics(run.folder)] == [1, 2, 3]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"old": True})

    def torn_write() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        torn_write()
    assert read_json(target) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, {"x": float("nan")})
    assert read_json(target) == {"old": True}


def test_seeds_differ_by_purpose_and_index() -> None:
    seeds = {derive(s, p, i) for s in range(3) for p in ("batch", "noise") for i in range(50)}
    assert len(seeds) == 300
    assert derive(1, "batch", 2) == derive(1, "batch", 2)
    assert sorted(epoch_order(20, 0, 1)) == list(range(20))
    assert epoch_order(20, 0, 1) != epoch_order(20, 0, 2)
