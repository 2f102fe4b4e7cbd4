"""Tests of the documentation: its flags and keys exist, its links lead somewhere, its sentences are short."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

import ddp_mlp
from ddp_mlp.__main__ import VERBS
from ddp_mlp.config import Config
from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "lessons").glob("*.md")])
MOST_WORDS = 35


def blocks(page: Path, kind: str) -> list[str]:
    """Return the fenced blocks of a kind on a page."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[str]:
    """Return the commands of a page's blocks of shell, one a line, and those behind a prompt in its transcripts."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [line[2:] for block in blocks(page, "text") for line in block.splitlines() if line.startswith("$ ")]
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


@cache
def help_of(verb: str) -> str:
    """Return what a command's --help prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"ddp_mlp.{verb}", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_flag_exists(page: Path) -> None:
    """No command on a page uses a flag that its program does not have."""
    keys = {f"--{field.name}" for field in fields(Config)} | {"--config", "--print_config"}
    for line in commands(page):
        if found := re.search(r"-m ddp_mlp\.(\w+)(.*)", line):
            flags = set(re.findall(r"(?<=\s)(--\w+)", found[2]))
            known = keys if found[1] in ("train", "search") else set()
            assert not {flag for flag in flags - known if flag not in help_of(found[1])}, line


def test_every_command_and_key_is_on_a_page() -> None:
    """Each command is explained on a page written by hand; each key comes into options.md from the configuration."""
    text = "\n".join(page.read_text() for page in PAGES)
    assert [verb for verb in VERBS if f"ddp_mlp.{verb}" not in text] == []
    made = subprocess.run(
        [sys.executable, "-c", "import generate; print(generate.options())"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "docs")])},
    ).stdout
    assert [field.name for field in fields(Config) if f"\n`{field.name}`\n" not in made] == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_plain_text(verb: str) -> None:
    """It goes into a page and through pipes: no control characters."""
    assert [line for line in help_of(verb).splitlines() if not line.isprintable()] == []


def test_every_public_name_is_in_the_api_reference() -> None:
    """What `ddp_mlp` offers is documented on the page of the Python API."""
    page = (ROOT / "docs" / "api.md").read_text()
    there = set(re.findall(r"^\.\. auto\w+:: [\w.]*\b(\w+)$", page, re.M))
    assert {name for name in ddp_mlp.__all__ if not name.startswith("_")} - there == set()


def test_every_extra_is_on_the_page_of_installation() -> None:
    """Each extra that a user may want is in the table; the others are for who works on the program."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = re.findall(r"^\| (`.*`) \|", (ROOT / "docs" / "install.md").read_text(), re.M)
    named = set(re.findall(r"`([\w]+)`", " ".join(table)))
    assert set(extras) - {"bench", "dev", "docs", "test"} - named == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_sentence_is_long(page: Path) -> None:
    """No sentence of a page has more than 35 words; code, tables and headings do not count."""
    text = re.sub(r"^(```|~~~|:::).*?^\1$", "", page.read_text(), flags=re.M | re.S)
    text = re.sub(r"^(\||#|---|\$\$).*$", "", text, flags=re.M)
    text = re.sub(r"\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " code ", text)
    for paragraph in re.split(r"\n\s*\n|\n- |\n\d\. ", text):
        for sentence in re.split(r"(?<=[.:;?!])[\s*)]+", paragraph):
            assert len(sentence.split()) <= MOST_WORDS, sentence


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link of a page leads to a file of the checkout, and has a text: not every reader has the site."""
    assert not re.findall(r"(?<!!)\[\]\(.*?\)", page.read_text())
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_files_that_pages_name_exist() -> None:
    """A path of the checkout on a page is there."""
    for page in PAGES:
        for name in re.findall(r"`?((?:scripts|tests|ddp_mlp|docs)/[\w./-]*\w)", page.read_text()):
            assert "_build" in name or (ROOT / name).exists(), (page.name, name)


def test_every_quoted_line_of_code_is_there() -> None:
    """The table of formulas names lines that exist in the files it names."""
    rows = re.findall(r"^\| .* \| `(.*?)` \| `(.*?)` \|$", (ROOT / "docs" / "derivation.md").read_text(), re.M)
    assert len(rows) >= 11
    for code, file in rows:
        assert code in (Path(ddp_mlp.__file__).parent / file).read_text(), code
