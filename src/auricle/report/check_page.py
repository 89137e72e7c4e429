"""The result of a check for people: a table for the terminal, and sheets with a picture of every case."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from auricle.core.anatomy import KEYS, STRUCTURES
from auricle.core.files import atomic_path
from auricle.core.progress import track
from auricle.report.slices import WINDOW_HU, colored

Result = dict[str, Any]
"""What check.json holds."""

RANK = {"refused": 0, "notice": 1, "clean": 2}
STYLE = {"refused": "red", "notice": "yellow", "clean": "green"}
MOST_ROWS, MOST_LINES = 40, 10
"""Cases in the terminal's table, and notices of one kind below it."""
COLUMNS, ROWS, TILE = 5, 6, 150
"""Cases across and down a sheet; each takes two tiles of so many pixels."""
BORDER = {"refused": (0.85, 0.15, 0.15), "notice": (0.85, 0.65, 0.1), "clean": (0.25, 0.25, 0.25)}
ALPHA = 0.4


def terminal(result: Result) -> RenderableType:
    """Table of the cases, worst first, then every refusal, the notices by kind, and the sum of it all."""
    cases = sorted(result["cases"], key=lambda c: (RANK[c["verdict"]], -len(_findings(c, result)), c["id"]))
    shown = cases[:MOST_ROWS]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "", "voxels", "mm", "axes", "HU", "labels"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for case in shown:
        table.add_row(*_cells(case, result))
    parts: list[RenderableType] = [table]
    if len(cases) > len(shown):
        rest = Counter(c["verdict"] for c in cases[MOST_ROWS:])
        parts.append(Text(f".. and {len(cases) - len(shown)} more cases ({', '.join(f'{n} {v}' for v, n in rest.items())})"))
    parts += [Text.assemble((level, STYLE[level]), f"  {text}", overflow="fold") for level, text in _lines(result)]
    return Group(*parts, Text(""), *(Text(line) for line in summary(result)))


def show(result: Result) -> None:
    """Print the table; in a file or a pipe its lines are as long as they need to be."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    console.print(terminal(result), soft_wrap=True)


def summary(result: Result) -> list[str]:
    """The result in a few short lines."""
    s, needs = result["summary"], result["needs"]
    lines = [f"{_counted(s['cases'], 'case')}, {s['labeled']} labeled, {_counted(s['patients'], 'patient')}: "
             f"{s['refused']} refused, {s['notice']} with notices, {s['clean']} clean; {s['bytes'] / 2**30:.2f} GiB on disk"]  # fmt: skip
    seen = [c for c in result["cases"] if c["structures"] is not None]
    if seen:
        lacking = ", ".join(f"{k} {v['missing']}" for k, v in s["structures"].items() if v["missing"])
        lines.append(f"missing structures: {lacking or 'none'}; empty label maps: {s['empty_labels']}")
    if (spacing := s["fingerprint"]["spacing_mm"]) is not None:
        voxels = " x ".join(f"{v:g}" for v in s["fingerprint"]["shape"]["median"])
        least, median, most = (" x ".join(f"{v:.3g}" for v in spacing[k]) for k in ("least", "median", "most"))
        lines.append(f"in the median {voxels} voxels of {median} mm ({least} to {most})")
    if needs is not None:
        lines.append(f"prepared: {needs['prepared_gib']:g} GiB on disk, {needs['prepare_gib_per_worker']:g} GiB of memory a worker; "
                     f"training: {needs['train_gib']:g} GiB of memory ({needs['train_stage']})")  # fmt: skip
    if result["settings"]["quick"] and len(seen) < s["cases"]:
        which = "" if not seen else f" of {_counted(s['cases'] - len(seen), 'case')}"
        lines.append(f"headers alone were read{which}: voxels, HU and labels are not checked")
    return lines


def write_sheets(result: Result, out: Path) -> list[Path]:
    """Write contact-sheet-1.png, .. with an axial and a coronal slice of every case that has pictures; returns their paths."""
    cases = [c for c in result["cases"] if c["picture"] is not None or (c["verdict"] == "refused" and not result["settings"]["quick"])]
    pages = [cases[i : i + COLUMNS * ROWS] for i in range(0, len(cases), COLUMNS * ROWS)]
    paths = []
    for number, page in enumerate(track(pages, "contact sheets", len(pages)), 1):
        path = out / f"contact-sheet-{number}.png"
        with atomic_path(path) as temporary:
            _sheet(page, result, out, f"{number} of {len(pages)}").savefig(temporary, format="png", metadata={"Software": None})
        paths.append(path)
    return paths


def _findings(case: Result, result: Result) -> list[Result]:
    """A case's own findings and those of the cohort that name it."""
    return [*case["findings"], *(f for f in result["findings"] if case["id"] in f["cases"])]


def _cells(case: Result, result: Result) -> list[RenderableType]:
    level, hu = case["verdict"], case["hu"]
    count = len(_findings(case, result))
    return [
        Text(case["id"] if len(case["id"]) <= 28 else f"..{case['id'][-26:]}"),
        Text(f"{level} {count}" if count else level, STYLE[level]),
        _times(case["shape"], "{}"), _times(case["spacing_mm"], "{:.3g}"), case["axes"] or "",
        "" if hu is None else f"{hu['low']:.0f}..{hu['high']:.0f}", _labels(case),
    ]  # fmt: skip


def _labels(case: Result) -> str:
    if case["label"] is None:
        return "none"
    if case["structures"] is None:
        return ""
    if not case["missing"]:
        return "all"
    return "empty" if not case["structures"] else f"no {' '.join(case['missing'])}"


def _lines(result: Result) -> Iterator[tuple[str, str]]:
    """Every refusal, then the notices, of each kind at most `MOST_LINES`: one of each case first, so that no case hides another."""
    told = [("", f["text"], f) for f in result["findings"]]
    told += [(c["id"], _line(c, f["text"]), f) for c in result["cases"] for f in c["findings"]]
    for _, text, f in told:
        if f["severity"] == "refused":
            yield "refused", text
    kinds: dict[str, list[tuple[int, str]]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for name, text, f in told:
        if f["severity"] == "notice":
            kinds.setdefault(f["code"], []).append((seen[name, f["code"]], text))
            seen[name, f["code"]] += 1
    for code, turns in kinds.items():
        texts = [text for _, text in sorted(turns, key=lambda turn: turn[0])]
        yield from (("notice", t) for t in texts[:MOST_LINES])
        if len(texts) > MOST_LINES:
            yield "notice", f".. and {len(texts) - MOST_LINES} more of this kind ({code})"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(case: Result, text: str) -> str:
    """The text under its case's name, unless it begins with that or with one of the case's files."""
    starts = (f"{case['id']}:", *(str(case[k]) for k in ("image", "label") if case[k] is not None))
    return text if text.startswith(starts) else f"{case['id']}: {text}"


def _times(values: Sequence[float] | None, style: str) -> str:
    return "" if values is None else " x ".join(style.format(v) for v in values)


def _sheet(cases: Sequence[Result], result: Result, out: Path, number: str) -> Figure:
    """One sheet: tiles put together as one picture, captions over it."""
    rows = max(1, -(-len(cases) // COLUMNS))
    caption, gap, head = 30, 6, 46
    wide, high = 2 * TILE + gap, TILE + caption + gap
    page = np.ones((head + rows * high, COLUMNS * wide, 3))
    figure = Figure(figsize=(page.shape[1] / 100, page.shape[0] / 100), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    for i, case in enumerate(cases):
        top, left = head + i // COLUMNS * high, i % COLUMNS * wide
        level = case["verdict"]
        page[top : top + TILE + caption, left : left + 2 * TILE] = BORDER[level]
        page[top + caption - 2 : top + TILE + caption - 2, left + 2 : left + 2 * TILE - 2] = _pictures(case, out)[:, 2:-2]
        ax.text(left + 5, top + 4, case["id"][-44:], color="white", fontsize=7, va="top", weight="bold", parse_math=False)
        size = f"{_times(case['shape'], '{}')} of {_times(case['spacing_mm'], '{:.3g}')} mm {case['axes']}" if case["shape"] else ""
        first = next((f["text"] for f in _findings(case, result) if f["severity"] == level), size)
        for name in (case["image"], case["label"], case["id"]):
            first = first.removeprefix(f"{name}: ")
        ax.text(left + 5, top + 16, _short(first), color="white", fontsize=6, va="top", parse_math=False)
    ax.imshow(page, extent=(0, page.shape[1], page.shape[0], 0), interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    ax.text(6, 8, f"Contact sheet {number}: axial, coronal; patient's right on the left", fontsize=9, va="top")
    handles = [Patch(color=f"#{s.color[0]:02x}{s.color[1]:02x}{s.color[2]:02x}", label=s.key) for s in STRUCTURES]
    ax.legend(handles=handles, loc="upper right", ncols=len(KEYS), fontsize=8, frameon=False, borderaxespad=0.3)
    return figure


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 2]}.."


def _pictures(case: Result, out: Path) -> NDArray[np.float64]:
    """Axial and coronal slice side by side, (TILE, 2 TILE, 3); dark where the case could not be read."""
    pair = np.full((TILE, 2 * TILE, 3), 0.12)
    if case["picture"] is None:
        return pair
    with np.load(out / case["picture"], allow_pickle=False) as kept:
        spacing = kept["spacing"]
        for i, (name, axes) in enumerate((("axial", (0, 1)), ("coronal", (0, 2)))):
            picture, label = (kept[f"{name}{end}"].T[::-1, ::-1] for end in ("", "_label"))
            pair[:, i * TILE : (i + 1) * TILE] = _tile(picture, label, (spacing[axes[1]], spacing[axes[0]]))
    return pair


def _tile(hu: NDArray[np.int16], label: NDArray[np.uint8], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """A slice [row, column] with its labels, true to scale and as large as fits into a black square of TILE pixels."""
    extent = np.array(hu.shape) * spacing
    size = np.maximum(1, np.floor(extent / extent.max() * TILE).astype(int))
    row, column = (np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int) for n, m in zip(size, hu.shape, strict=True))
    low, high = WINDOW_HU
    gray = np.clip((hu[np.ix_(row, column)] - low) / (high - low), 0, 1)[..., None]
    shades = colored(label[np.ix_(row, column)], ALPHA)
    tile = np.zeros((TILE, TILE, 3))
    top, left = (TILE - size) // 2
    tile[top : top + size[0], left : left + size[1]] = gray * (1 - shades[..., 3:]) + shades[..., :3] * shades[..., 3:]
    return tile
