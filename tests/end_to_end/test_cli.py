"""The command line: parsing, one-line errors, JSON events."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from auricle import cli, recipes


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("auricle: ")
    return error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "run"),
        (["bogus"], "bogus"),
        (["run"], "--out"),
        (["run", "--out", "x", "--recipe", "huge"], "--recipe"),
        (["run", "--out", "x", "--data", "nowhere"], "nowhere"),
        (["cohort", "--out", "x", "--size", "10", "64", "64"], "--size must be multiples of 16"),
        (["cohort", "--out", "x", "data:virtual-data", "--data.patients", "1"], "--data.patients must be at least 4"),
        (["autoencoder", "--out", "x", "--cohort", "nowhere"], "nowhere holds no finished cohort"),
        (["finetune", "--out", "x", "--cohort", "c", "--fit.learning-rate", "-1"], "--fit.learning-rate must be positive"),
        (["report", "nowhere"], "nowhere is not the folder of a run"),
        (["assess", "nowhere"], "nowhere/cohort holds no finished cohort"),
        (["generate", "-n", "2", "--volume", "LAB=12"], "'LAB=12' is not STRUCTURE=ML"),
        (["generate", "-n", "0"], "--count"),
        (["generate", "--sex", "X"], "--sex"),
        (["generate", "--phase", "2"], "--phase must lie between 0"),
        (["generate", "-n", "2", "--run", "nowhere"], "nowhere/autoencoder holds no finished autoencoder"),
        (["generate", "--run", "nowhere", "--cohort", "c"], "--run stands for --autoencoder, --diffusion and --cohort"),
        (["plan", "--memory", "lots"], "--memory 'lots' is no size"),
        (["plan", "--label-map", "1=LV"], "give --data too"),
        (["evaluate", "--out", "x", "--cohort", "c", "--model", "m", "--tolerance-mm", "-1"], "--tolerance-mm must be positive"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--out" in text or command in ("report", "assess", "plan")


def test_a_plan_of_the_paper_fits_or_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", "--recipe", "paper", "--memory", "24GiB"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["stage", "GiB", "time", "steps", "fits"]
    assert {line.split()[-1] for line in told[1:-1]} == {"yes"}
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "--recipe", "paper", "--memory", "8GiB", "--json"])
    assert stop.value.code == 2
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    fits = {e["stage"]: e["fits"] for e in events if e["event"] == "estimate"}
    assert (fits["diffusion"], fits["generate"]) == (False, True)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("auricle 0.")


def test_a_reader_that_goes_away_ends_it_without_a_word(tmp_path: Path) -> None:
    code = "import sys, auricle.cli; sys.stdin.read(); auricle.cli.main(['segment', 'nothing.nii.gz', '-o', 'out', '--json'])"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.wait() in (1, 2)
        assert b"Traceback" not in process.stderr.read()


def test_wrong_flags_are_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["segment", "--nonsense", "--json"])
    assert stop.value.code == 2
    assert json.loads(capsys.readouterr().out)["event"] == "error"


@pytest.mark.parametrize("text", ["CUDA error: no kernel image is available", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"])
def test_a_gpu_that_fails_is_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"{text}\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr("auricle.stages.segment.run", broken)
    (tmp_path / "a.nii.gz").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        cli.main(["segment", str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"auricle: the GPU failed ({text}): set CUDA_VISIBLE_DEVICES= (to nothing)")


def test_json_mode_writes_events_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "auricle", "cohort", "--out", str(tmp_path / "c"), "--json", "--size", "32", "32", "32", "--spacing",
               "5", "5", "5", "--margin", "0", "0", "0", "--workers", "2", "data:virtual-data", "--data.patients", "4"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] == {**events[-1], "event": "finished", "out": str(tmp_path / "c")}
    assert events[-2]["event"] == "progress"
    assert events[-2]["done"] == events[-2]["total"] == 4


def test_run_ends_with_the_path_of_the_report_and_is_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`auricle run` on a recipe cut down to its first stage: the order of things, run.json and the printed path."""
    from auricle import recipes
    from auricle.stages import cohort as cohort_stage
    from auricle.stages.cohort import CohortConfig

    def short(*arguments: object) -> list[recipes.Step]:
        from auricle.data.cohort import VirtualData

        config = CohortConfig(VirtualData(patients=4), size=(32, 32, 32), spacing=(5.0, 5.0, 5.0), margin=(0, 0, 0), workers=1)
        return [recipes.Step("cohort", cohort_stage.run, config, tmp_path / "r" / "cohort")]

    monkeypatch.setattr(recipes, "steps", short)
    for _ in range(2):
        cli.main(["run", "--out", str(tmp_path / "r"), "--quiet"])
        assert capsys.readouterr().out.strip() == str(tmp_path / "r" / "report.html")
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert facts["recipe"] == "demo"
    assert facts["peak_gib"] > 0
    assert facts["machine"]["cores"] >= 1
    # Where nothing is left to do, or the first stage is refused, the run stays what it was.
    (tmp_path / "r" / "run.json").write_text(json.dumps({**facts, "machine": {**facts["machine"], "cpu": "SERVER"}}))
    cli.main(["run", "--out", str(tmp_path / "r"), "--quiet"])
    assert json.loads((tmp_path / "r" / "run.json").read_text())["machine"]["cpu"] == "SERVER"
    capsys.readouterr()
    cli.main(["report", str(tmp_path / "r"), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "finished"


def test_flags_of_an_own_cohort_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give --data too" in fails(capsys, "run", "--out", "x", "--label-map", "1=LV")


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def interrupted(*arguments: object) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "steps", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--out", str(tmp_path / "r")])
    assert stop.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def documented() -> list[str]:
    """Every command line of the README and the documentation, usage lines aside."""
    root, found = Path(__file__).parents[2], []
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("auricle ", 1)[1] for line in lines if re.match(r"(\w+=\S+ )*\.venv/bin/auricle ", line)]
    return [line for line in found if not re.search(r"\[|\||\.\.( |$)", line)]


def test_documented_commands_can_be_parsed() -> None:
    lines = documented()
    assert len(lines) > 40
    for line in lines:
        cli._parse(shlex.split(line, comments=True))
