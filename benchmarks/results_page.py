"""The page docs/results/demo.md (figures, machine, date) and its picture, from a finished run.

python -m benchmarks.results_page runs/demo docs/results/demo
"""

import argparse
import base64
import re
from pathlib import Path
from typing import Any

from auricle.core.anatomy import KEYS
from auricle.core.files import atomic_path, read_json, write_text
from auricle.report import words
from auricle.report.page import write_report
from auricle.report.reading import RunFolder
from auricle.report.summary import differences
from benchmarks.phantom_page import table


def number(value: float | None, digits: int = 3) -> str:
    """A table cell."""
    return "-" if value is None else f"{value:.{digits}f}"


def page(name: str, run: dict[str, Any], summary: dict[str, Any], pairs: dict[str, Any], said: list[str]) -> str:
    """The Markdown text; `pairs` is pairs.json, `said` how the arms compare with the baseline."""
    machine = run["machine"]
    code, generated = summary["autoencoder"], summary["generate"]
    arms = summary["arms"]
    keys = ["mean", *KEYS]
    gate, kept = pairs["gate"], len(pairs["pairs"])
    good = sum(not p["faults"] for p in pairs["pairs"])
    filled = f"; {kept - good} of the {kept} pairs are the least faulty of the others, since the tries were used up" if good < kept else ""
    minutes = [[stage, f"{seconds / 60:.1f}"] for stage, seconds in summary["seconds"].items()]
    return f"""# Results of the {run["recipe"]} recipe

Command: `{run["command"]}`, seed {run["seed"]}, auricle {run["version"]}, started {run["started"]}.
Machine: {machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, {machine["gpu"] or "no GPU"}, {machine["platform"]},
Python {machine["python"]}, torch {machine["torch"]}. This page is written by `python -m benchmarks.results_page`.

All patients are virtual: the figures say that the method works end to end on this phantom, not how it does on real scans.
One seed and {next(iter(arms.values()))["cases"]} test cases cannot settle which arm is better.

![Real (virtual) and generated pairs side by side]({name}.png)

## Autoencoder, round trip of held-out patients

{table(["", *keys], [["Dice", *(number(code["label_dice"][k]) for k in keys)]])}

Impossible boundary voxels {100 * code["impossible_boundary_share"]:.3f}%, specks {100 * code["speck_share"]:.3f}% of the foreground,
image RMSE {code["image_rmse_hu"]:.0f} HU.

## Generated pairs

All eight structures are present (0.5 mL or more each) in {100 * generated["complete_share"]:.0f}% of the pairs; specks
{100 * generated["speck_share"]:.3f}% of the foreground. {gate["passed"]} of {gate["candidates"]} candidates passed the gate ({gate["copies"]} were
copies){filled}.

{table(["", *KEYS], [["mean volume, generated / training", *(number(generated["volume_ratio"][k], 2) for k in KEYS)]])}

## Arms, test patients

{" ".join(said)}

Dice:

{table(["arm", *keys], [[arm, *(number(v["dice"][k]) for k in keys)] for arm, v in arms.items()])}

HD95, mm:

{table(["arm", *keys], [[arm, *(number(v["hd95_mm"][k], 1) for k in keys)] for arm, v in arms.items()])}

## Time and memory

Peak memory {number(summary["peak_gib"], 1)} GiB; {summary["seconds"]["total"] / 60:.1f} minutes in all, the installation not included.

{table(["stage", "minutes"], minutes)}
"""


def main() -> None:
    """Write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("target", type=Path, help="path of the page without its suffix")
    options = parser.parse_args()
    facts = read_json(options.run / "run.json")
    html = write_report(options.run, facts["peak_gib"]).read_text(encoding="utf-8")
    first = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    assert first is not None
    with atomic_path(options.target.with_suffix(".png")) as temporary:
        temporary.write_bytes(base64.b64decode(first.group(1)))
    write_text(options.target.with_suffix(".md"), page(
        options.target.name, facts, read_json(options.run / "summary.json"), read_json(options.run / "generate" / "pairs.json"),
        [words.compared(arm, found) for arm, found in differences(RunFolder(options.run)).items()],
    ))  # fmt: skip


if __name__ == "__main__":
    main()
