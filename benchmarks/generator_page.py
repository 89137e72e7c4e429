"""The page docs/results/generator.md with its figures, and generator.json, from a run that `auricle assess` has assessed.

    python -m benchmarks.generator_page runs/laptop docs/results [--note "how it was made"]

The tables of the other benchmarks of the generator are pages of their own beside it, and are linked where they are there.
"""

import argparse
import re
from datetime import date
from pathlib import Path

from auricle.core.files import atomic_path, write_text
from auricle.core.machine import describe_machine
from auricle.report.assessment import write_assessment

NAME = "generator"
BESIDE = {
    "generator-autoencoders": "label heads of the autoencoder (categorical, packed), at equal steps",
    "generator-samplers": "samplers and their number of steps",
    "generator-peers": "speed, memory and reconstruction beside MONAI",
    "paper-step": "memory of one step of each stage at the paper's size",
}


def main() -> None:
    """Write the page, its figures and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("out", type=Path, help="folder for the page")
    parser.add_argument("--note", default="", help="a sentence on how the run was made")
    options = parser.parse_args()
    text = write_assessment(options.run).read_text(encoding="utf-8")
    for picture in sorted((options.run / "assessment").glob("*.png")):
        with atomic_path(options.out / f"{NAME}-{picture.name}") as temporary:
            temporary.write_bytes(picture.read_bytes())
    write_text(options.out / f"{NAME}.json", (options.run / "assessment.json").read_text(encoding="utf-8"))
    text = re.sub(r"\]\((\w+\.png)\)", rf"]({NAME}-\1)", text).replace("`assessment.json` in the run's folder", f"[{NAME}.json]({NAME}.json)")
    title, body = text.split("\n", 1)
    machine = describe_machine()
    facts = (
        f"`auricle assess {options.run}`, {date.today()}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['platform']}, Python {machine['python']}, torch {machine['torch']}. {options.note} "
        "All patients are virtual. This page is written by `python -m benchmarks.generator_page`."
    )
    links = [f"- [{what}]({name}.md)" for name, what in BESIDE.items() if (options.out / f"{name}.md").exists()]
    more = "\n\n## More measurements of the generator\n\n" + "\n".join(links) + "\n" if links else ""
    write_text(options.out / f"{NAME}.md", f"{title}\n\n{facts}\n{body.rstrip()}{more}\n")


if __name__ == "__main__":
    main()
