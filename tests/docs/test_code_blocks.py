"""Every block of code in the documentation is run as it stands, or says why not.

A page may say, in a comment that readers do not see, before a block:
- `<!-- given: COMMAND -->`: what a reader who comes this far has; it is run first;
- `<!-- file: NAME -->`: the block is the content of a file;
- `<!-- not run: REASON -->`: the block is not run.
"""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import MPIRUN, ROOT, run

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
KINDS = {"sh", "python", "toml", "c", "fortran", "text"}
SAME_HASHES = {"README.md": [(0, 1), (3, 4)], "docs/tutorial.md": [(0, 1), (3, 4)]}
"""Of the hashes that a page's commands print, those that the page says are the same."""


class Block(NamedTuple):
    """A piece of a page: what a comment says, or a fenced block with what its comment says of it."""

    kind: str
    """sh, python, …; given; or output, which nobody types."""
    text: str
    file: str | None = None
    not_run: str | None = None


def blocks(page: Path) -> list[Block]:
    """Return what a page asks for, in its order."""
    pattern = r"^<!-- (given|file|not run): (.+?) -->$|^```([^\n]*)\n(.*?)^```$"
    found: list[Block] = []
    said: dict[str, str] = {}
    for word, what, kind, text in re.findall(pattern, page.read_text(), re.M | re.S):
        if word == "given":
            found.append(Block("given", what))
        elif word:
            said[word] = what
        elif not kind.startswith("{"):
            typed = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            if kind == "text" and "file" not in said:
                kind, text = ("sh", "\n".join(typed)) if typed else ("output", text)
            found.append(Block(kind, text, said.get("file"), said.get("not run")))
            said = {}
    assert not said, f"{page.name}: said of no block: {said}"
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """No block of code is of a kind that nothing runs, unless it is a file or has a reason."""
    for block in blocks(page):
        assert block.kind in {*KINDS, "given", "output"}, block
        assert block.kind in {"sh", "python", "given", "output"} or block.file or block.not_run, block


def runs_something(page: Path) -> bool:
    """Tell whether a page has a block that is run."""
    return any(block.kind in ("sh", "python") and not block.file and not block.not_run for block in blocks(page))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if runs_something(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_blocks_work_as_written(page: Path, tmp_path: Path) -> None:
    """The blocks of a page run in their order, in a folder with nothing but the digits and what the page gives."""
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python")
    for name in ("data", "scripts", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = ""
    for block in blocks(page):
        if block.not_run or block.kind == "output":
            continue
        if block.file:
            (tmp_path / block.file).write_text(block.text)
            continue
        command: list[str | Path] = (
            ["python", "-c", block.text] if block.kind == "python" else ["bash", "-ec", block.text]
        )
        outcome = run(command, 150, {"PATH": path, "MPLBACKEND": "agg"}, tmp_path)
        assert outcome.returncode == 0, (block.text, outcome.stderr)
        printed += outcome.stdout
    hashes = re.findall(r"parameters_sha256 (\w+)", printed)
    for one, other in SAME_HASHES.get(str(page.relative_to(ROOT)), []):
        assert hashes[one] == hashes[other]
