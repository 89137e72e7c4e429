"""What the pages about the virtual patients share: tables, and the line that says what ran where."""

import argparse
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from auricle.core import progress
from auricle.core.files import write_text


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's text as it is, with the option that every page has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the page, such as docs/results; the tables are printed either way")
    progress.configure("bars")
    return parser


def publish(text: str, *, out: Path | None, name: str, title: str, command: str) -> None:
    """Print `text`, and write it to ``out/name.md`` under a title and a line with the command, the date and the machine."""
    # Imports torch, whose memory must not count in what is measured before.
    from auricle.core.machine import describe_machine

    print(text)
    if out is None:
        return
    machine = describe_machine()
    facts = f"`{command}`, {date.today()}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['platform']}, "
    write_text(out / f"{name}.md", f"# {title}\n\n{facts}Python {machine['python']}.\n\n{text}\n")
