"""Make the pictures of the documentation, docs/pictures, from the program itself and from real runs.

The sum and the charts are functions of the code and of the tables in docs/, which `figures.py` makes: a test holds the
files against them. The report's pages are those of a run made here, shown by Chromium; the recording is of runs made,
killed and resumed here.
"""

import argparse
import base64
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ddp_mlp.reporting.charts import ABOVE, LEGEND_POINTS, Chart, Palette, dress, to_svg
from ddp_mlp.summing import tree

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
SHARDS, WORLDS = 8, (1, 2, 3)
ROWS, LINE, COLUMN = 24, 18, 8.4
"""Of the terminal that is recorded: lines, and the pixels of a line and of a column of 80."""
PAUSE = 0.7
"""Seconds that a recording waits at most between two lines."""


def variables() -> str:
    """Return the colours of the report's page, for light and for dark screens."""
    style = resources.files("ddp_mlp.reporting").joinpath("page.css").read_text(encoding="utf-8")
    return style[: style.index("* {")].replace("screen and ", "")


def standing_alone(svg: str) -> str:
    """Return an SVG element of a page as a file of its own, with the page's colours and paper."""
    style = f"<style>{variables()} svg {{ background: var(--paper); }} text {{ font-family: sans-serif; }}</style>"
    named = (
        svg if "xmlns=" in svg.partition(">")[0] else svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    )
    head, end, rest = named.partition(">")
    return f"{head}{end}{style}{rest}\n"


# ---- the exact sum ---------------------------------------------------------------------------------------------------


def exact_sum() -> str:
    """Return the tree over eight shards, once for each number of ranks, in the colour of the rank that adds."""
    width, step, down = 300, 34, 30
    drawn, words = [], []
    for place, P in enumerate(WORLDS):
        left = 20 + place * width
        drawn.append(_text(left + step * SHARDS / 2, 20, f"P = {P}", "middle", "600 15px"))
        bounds = tree.cut(SHARDS, P)
        owner = [next(p for p in range(P) if bounds[p] <= shard < bounds[p + 1]) for shard in range(SHARDS)]
        own = {subtree: p for p in range(P) for subtree in tree.complete_subtrees(bounds[p], bounds[p + 1], SHARDS)}
        words.append(f"P = {P}: " + ", ".join(f"rank {p} sums {_named(subtree)}" for subtree, p in own.items()))
        drawn += _tree((0, SHARDS), left, step, down, owner, own)
        bottom = 40 + 4 * down
        for shard in range(SHARDS):
            drawn.append(_text(left + step * (shard + 0.5), bottom + 34, str(shard), "middle", "12px"))
        for p in range(P):
            lo, hi = bounds[p], bounds[p + 1]
            where = f'x="{left + step * lo + 3}" y="{bottom + 44}" width="{step * (hi - lo) - 6}" height="5" rx="2.5"'
            drawn.append(f'<rect {where} fill="var(--run-{p})"/>')
            drawn.append(_text(left + step * (lo + hi) / 2, bottom + 66, f"rank {p}", "middle", "12px"))
    note = "Each sum has the same two children whatever P is. Filled: one rank adds it. Rings: each slice's owner does."
    drawn.append(_text(20, 40 + 4 * down + 96, note, "start", "13px"))
    label = escape(f"The exact sum over {SHARDS} shards. {'; '.join(words)}.")
    size = f'viewBox="0 0 {40 + width * len(WORLDS) - 28} {40 + 4 * down + 108}"'
    return standing_alone(f'<svg {size} role="img" aria-label="{label}">{"".join(drawn)}</svg>')


def _tree(
    root: tree.Subtree, left: float, step: int, down: int, owner: Sequence[int], own: dict[tree.Subtree, int]
) -> list[str]:
    """Return the lines and nodes of a tree whose leaves stand on one line."""
    lines, nodes = [], []

    def place(subtree: tree.Subtree) -> tuple[float, float]:
        lo, hi = subtree
        return left + step * (lo + hi) / 2, 40 + down * (3 - (hi - lo - 1).bit_length()) + down

    def walk(subtree: tree.Subtree, inside: int | None) -> None:
        inside = own.get(subtree, inside)
        x, y = place(subtree)
        colour = f"var(--run-{inside})" if inside is not None else "var(--ink)"
        fill = colour if inside is not None else "var(--paper)"
        nodes.append(f'<circle cx="{x}" cy="{y}" r="6.5" fill="{fill}" stroke="{colour}" stroke-width="2"/>')
        if subtree[1] - subtree[0] > 1:
            for child in tree.children(subtree):
                cx, cy = place(child)
                lines.append(f'<path d="M{x} {y}L{cx} {cy}" stroke="var(--soft)" stroke-width="1.4"/>')
                walk(child, inside)

    walk(root, None)
    assert all(owner[lo] == p for (lo, _), p in own.items()), "the plan's ranks own their shards"
    return [*lines, *nodes]


def _named(subtree: tree.Subtree) -> str:
    lo, hi = subtree
    return f"{lo}" if hi - lo == 1 else f"{lo} to {hi - 1}"


def _text(x: float, y: float, words: str, anchor: str, font: str) -> str:
    placed = f'x="{x}" y="{y}" text-anchor="{anchor}" fill="var(--ink)"'
    return f'<text {placed} style="font: {font} sans-serif">{escape(words)}</text>'


# ---- charts of measured figures --------------------------------------------------------------------------------------


def table_of(page: str, first_heading: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the first table of a page whose head begins so."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows[0], rows[2:]


def speed() -> str:
    """Return the chart of how long the peers' steps take beside this program's, from docs/performance.md."""
    head, rows = table_of("performance.md", "network")
    peers = head[2:6]
    told = [f"{row[0]}: " + ", ".join(f"{peer} {x}" for peer, x in zip(peers, row[2:6], strict=True)) for row in rows]

    def draw(axes: Axes, palette: Palette) -> None:
        places = np.arange(len(rows), dtype=float)
        axes.axvline(1, color=palette.ink, linewidth=1.2)
        for k, peer in enumerate(peers):
            times = [float(row[2 + k]) for row in rows]
            axes.plot(times, places, "osD^"[k], color=palette.run(k), markersize=6, label=peer)
        axes.set_xscale("log")
        ticks = [0.75, 1, 1.5, 2, 3, 5, 10]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_yticks(places, [row[0].replace(", batch ", " @ ") for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("time of a step, times ours (right of the line: slower than ours)")
        axes.legend(labelcolor=palette.ink, **{**ABOVE, "ncols": 4})
        dress(axes, palette, grid=False)
        axes.grid(axis="x", color=palette.faint, linewidth=0.6)

    chart = Chart("Speed", f"Time of a step beside this program's. {'; '.join(told)}.", draw, (7.6, 3.2), LEGEND_POINTS)
    return _file_of(chart, "speed")


def scaling() -> str:
    """Return the chart of the efficiency that the model predicts, from docs/scaling.md."""
    head, rows = table_of("scaling.md", "ranks")
    kinds = head[3:]
    shares = [[float(cell.partition("(")[2].rstrip(")")) for cell in row[3:]] for row in rows]
    names = [f"{row[0]} ranks, {row[1]} a node" for row in rows]
    told = [
        f"{name}: " + ", ".join(f"{kind} {x:g}" for kind, x in zip(kinds, found, strict=True))
        for name, found in zip(names, shares, strict=True)
    ]

    def draw(axes: Axes, palette: Palette) -> None:
        for k, kind in enumerate(kinds):
            places = np.arange(len(rows)) + 0.27 * (k - 1)
            axes.barh(places, [found[k] for found in shares], 0.25, color=palette.run(k), label=kind)
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel("predicted efficiency, 784-512-512-10, 64 rows a rank")
        axes.legend(labelcolor=palette.ink, **ABOVE)
        dress(axes, palette, grid=False)
        axes.grid(axis="x", color=palette.faint, linewidth=0.6)

    chart = Chart("Scaling", f"Predicted efficiency of a step. {'; '.join(told)}.", draw, (7.6, 3.4), LEGEND_POINTS)
    return _file_of(chart, "scaling")


def _file_of(chart: Chart, name: str) -> str:
    svg = to_svg(chart, name).replace("<svg", f'<svg role="img" aria-label="{escape(chart.text)}"', 1)
    return standing_alone(svg)


# ---- a recording -----------------------------------------------------------------------------------------------------


class Recording:
    """What programs write to a terminal of 80 columns, line by line, with times."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        """Seconds since the line before, at most PAUSE; and the line, with its colours."""
        self._before = time.monotonic()

    def add(self, line: str) -> None:
        """Add a line that is written now."""
        now = time.monotonic()
        self.lines.append((min(PAUSE, now - self._before), line))
        self._before = now

    def run(self, words: str, kill_at: str = "") -> int:
        """Run a command, shown as typed, and return its exit code; SIGKILL it once it has written `kill_at`."""
        *typed, last = textwrap.wrap(f"$ {words}", 78, subsequent_indent="      ", break_on_hyphens=False)
        for line in typed:
            self.add(f"{line} \\")
        self.add(last)
        python = Path(sys.executable)
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (ROWS, 80))
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "TERM": "xterm-256color"}
        environment["PYTHONPATH"] = str(ROOT)
        streams: Any = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
        with subprocess.Popen(words.split(), env=environment, start_new_session=True, **streams) as process:
            os.close(theirs)
            current, returned = "", False
            while text := _read(ours):
                for sign in text:
                    if sign == "\n":
                        if current.strip() and not re.search(r"\d%\|", current):
                            self.add(current)
                        current = ""
                    elif sign != "\r":  # after a return, what is written takes the place of what was there
                        current = sign if returned else current + sign
                    returned = sign == "\r"
                if kill_at and any(kill_at in line for _, line in self.lines):
                    os.killpg(process.pid, signal.SIGKILL)
                    self.add("Killed")
                    break
            code = process.wait(120)
        os.close(ours)
        return code


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode(errors="replace")
    except OSError:  # Linux says EIO at the end
        return ""


def kill_and_resume() -> str:
    """Return a recording: a run on two ranks is killed, goes on on three, and one that was left alone has its hash."""
    train = "python -m ddp_mlp.train --epochs 100 --checkpoint_every 50 --run_dir runs"
    recording = Recording()
    with _folder_with_digits():
        recording.run(f"mpirun -n 2 {train}/tour", kill_at=" 50/100")
        assert recording.run(f"mpirun -n 3 {train}/tour") == 0
        assert recording.run(f"{train}/whole --quiet") == 0
    hashes = re.findall(r"parameters_sha256 (\w{16})", "\n".join(line for _, line in recording.lines))
    assert len(hashes) == 2, hashes
    assert hashes[0] == hashes[1], hashes
    return as_svg(recording.lines)


def as_svg(lines: Sequence[tuple[float, str]]) -> str:
    """Return a recording as a terminal that writes; where nothing moves, the last ROWS lines are there."""
    at, moments = 0.0, []
    for pause, _ in lines:
        at += pause
        moments.append(at)
    length = at + 6.0  # the end stays for a while
    shift = [max(0, place + 1 - ROWS) * LINE for place in range(len(lines))]
    frames = ["0% { transform: translateY(0) }"]
    frames += [
        f"{100 * moment / length:.2f}% {{ transform: translateY(-{y}px) }}"
        for moment, y, before in zip(moments, shift, [0, *shift[:-1]], strict=True)
        if y != before
    ]
    style = (
        "text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }"
        " text { fill: #e6e9ee; } .b { font-weight: 700; } .g { fill: #6fd39a; } .y { fill: #e3c25a; }"
        " .r { fill: #ff8d80; } .p { fill: #7fb0ff; }"
        f" #all {{ transform: translateY(-{shift[-1]}px); animation: scroll {length:.1f}s step-end infinite; }}"
        f" #all text {{ animation: appear {length:.1f}s step-end infinite; }}"
        f" @keyframes scroll {{ {' '.join(frames)} 100% {{ transform: translateY(-{shift[-1]}px) }} }}"
        " @media (prefers-reduced-motion: reduce) { #all, #all text { animation: none !important; } }"
    )
    written = []
    for place, ((_, line), moment) in enumerate(zip(lines, moments, strict=True)):
        share = 100 * moment / length
        style += f" @keyframes a{place} {{ 0% {{ opacity: 0 }} {share:.2f}% {{ opacity: 1 }} }}"
        written.append(
            f'<text x="14" y="{LINE * (place + 1)}" xml:space="preserve" style="animation-name: a{place}">'
            f"{_coloured(line)}</text>"
        )
    width, height = round(80 * COLUMN + 28), LINE * ROWS + 24
    words = "A run on two ranks is killed, goes on on three ranks, and ends with the hash of a run that was left alone."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{words}"><style>{style}</style><rect width="{width}" height="{height}" rx="8" fill="#14181f"/>'
        f'<clipPath id="window"><rect y="8" width="{width}" height="{height - 12}"/></clipPath>'
        f'<g clip-path="url(#window)"><g transform="translate(0 10)"><g id="all">{"".join(written)}</g></g></g></svg>\n'
    )


def _coloured(line: str) -> str:
    """Return a line of a terminal as spans in its colours."""
    if line.startswith("$ "):
        return f'<tspan class="p b">$</tspan>{escape(line[1:])}'
    if line == "Killed":
        return '<tspan class="r">Killed</tspan>'
    found, kind = "", ""
    classes = {"1": "b", "32": "g", "33": "y", "1;31": "r b", "0": ""}
    for part in re.split(r"(\x1b\[[\d;]*m)", line):
        if code := re.fullmatch(r"\x1b\[([\d;]*)m", part):
            kind = classes.get(code[1], "")
        elif part:
            found += f'<tspan class="{kind}">{escape(part)}</tspan>' if kind else escape(part)
    return found


@contextmanager
def _folder_with_digits() -> Iterator[Path]:
    """Work in a folder that has nothing but the digits."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        (Path(name) / "data").symlink_to(ROOT / "data")
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


# ---- the report's page -----------------------------------------------------------------------------------------------

SCREENS = {
    "report-light": (1280, "light", 1560),
    "report-dark": (1280, "dark", 1560),
    "report-phone": (375, "light", 1600),
}
"""Width in pixels, colour scheme, and how much of the page is shown."""


def report_pages() -> dict[str, bytes]:
    """Return pictures of the page of a run on two ranks, as Chromium shows it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    mpirun = Path(sys.executable).with_name("mpirun")
    with _folder_with_digits() as folder:
        train = [str(mpirun), "-n", "2", sys.executable, "-m", "ddp_mlp.train", "--epochs", "40", "--quiet"]
        more = ["--valid_fraction", "0.1", "--log_every", "5", "--schedule", "cosine", "--run_dir", "runs/digits"]
        subprocess.run([*train, *more], env=environment, check=True, timeout=120)
        subprocess.run(
            [sys.executable, "-m", "ddp_mlp.report", "runs/digits"], env=environment, check=True, timeout=120
        )
        return {f"{name}.png": png for name, png in _seen(folder / "report.html").items()}


def _seen(page: Path) -> dict[str, bytes]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"):
        options.add_argument(flag)
    options.add_argument("--hide-scrollbars")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    found = {}
    try:
        for name, (width, scheme, height) in SCREENS.items():
            metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            media = {"media": "screen", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            browser.get(page.as_uri())
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            found[name] = base64.b64decode(shot["data"])
    finally:
        browser.quit()
    return found


DRAWN: dict[str, Callable[[], str]] = {"exact-sum.svg": exact_sum, "speed.svg": speed, "scaling.svg": scaling}
"""What is a function of the code and of tables in docs/."""
RECORDED: dict[str, Callable[[], str]] = {"kill-and-resume.svg": kill_and_resume}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*DRAWN, *RECORDED, "report"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(every)} (all)")
    asked = parser.parse_args(arguments).names or every
    PICTURES.mkdir(exist_ok=True)
    for name in asked:
        if name == "report":
            for file, png in report_pages().items():
                (PICTURES / file).write_bytes(png)
        elif name in every:
            (PICTURES / name).write_text({**DRAWN, **RECORDED}[name](), encoding="utf-8")
        else:
            parser.error(f"{name}: there is no such picture, but {', '.join(every)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
