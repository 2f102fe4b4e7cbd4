"""A file that is replaced is the old one or the new one, whatever fails at whatever moment."""

import os
import re
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ddp_mlp.errors import ConfigError, StorageError
from ddp_mlp.storage import atomic
from ddp_mlp.storage.atomic import failpoint, listing, remove, sweep, temporary_folder, write_atomically
from tests.conftest import Program
from tests.oracles import FAILPOINTS, HALF_WRITTEN

OLD, NEW = b"old" * 1000, b"new" * 2000


PROGRAM = """
import sys
from pathlib import Path
from ddp_mlp.storage.atomic import remove, write_atomically

folder = Path(sys.argv[1])
write_atomically(folder / "kept", b"new" * 2000)
remove(folder / "removed")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two files."""
    (tmp_path / "kept").write_bytes(OLD)
    (tmp_path / "removed").write_bytes(b"")
    return tmp_path


def assert_old_or_new(folder: Path, moment: str) -> None:
    """After a failure at this moment the files are, to the last byte, those that belong to it, and no others."""
    position = FAILPOINTS.index(moment.rpartition(",")[2])
    renamed, removed = (position >= FAILPOINTS.index(name) for name in ("renamed", "unlinked"))
    assert (folder / "kept").read_bytes() == (NEW if renamed else OLD)
    assert os.listdir(folder).count("removed") == (not removed)
    assert len(os.listdir(folder)) == 2 - removed


def test_every_failpoint_is_tried() -> None:
    """The failpoints in the source are the ones that the tests below go through."""
    assert sorted(re.findall(r'failpoint\("(\w+)"\)', Path(atomic.__file__).read_text())) == sorted(FAILPOINTS)


@pytest.mark.parametrize("moment", [*FAILPOINTS, HALF_WRITTEN])
def test_killed(folder: Path, moment: str, run_python: Program) -> None:
    """SIGKILL at any moment leaves the old file or the new one, and at most a leftover that `sweep` removes."""
    killed = run_python("-c", PROGRAM, folder, env={"DDP_MLP_FAILPOINT": f"{moment}:kill"})
    assert killed.returncode == -signal.SIGKILL
    has_leftover = moment.rpartition(",")[2] in FAILPOINTS[FAILPOINTS.index("opened") : FAILPOINTS.index("renamed")]
    assert len(sweep(folder)) == has_leftover
    assert_old_or_new(folder, moment)


@pytest.mark.parametrize("moment", [*FAILPOINTS, HALF_WRITTEN])
@pytest.mark.parametrize(("action", "reason"), [("EIO", "Input/output error"), ("ENOSPC", "No space left on device")])
def test_error(folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str, action: str, reason: str) -> None:
    """An error of the disk at any moment is one StorageError with path and reason, and leaves no temporary file."""
    monkeypatch.setenv("DDP_MLP_FAILPOINT", f"{moment}:{action}")
    with pytest.raises(StorageError) as caught:  # noqa: PT012 - either may be the one that fails
        write_atomically(folder / "kept", NEW)
        remove(folder / "removed")
    message = str(caught.value)
    name, verb = ("removed", "removed") if moment.startswith("unlink") else ("kept", "written")
    assert message == f"{folder / name}: cannot be {verb} ({reason})"
    assert_old_or_new(folder, moment)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that writes only half of what it is given, again and again, still gets the whole file."""
    sizes: list[int] = []
    real_write = os.write

    def counting_write(descriptor: int, data: memoryview) -> int:
        sizes.append(len(data))
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", counting_write)
    monkeypatch.setenv("DDP_MLP_FAILPOINT", "write:short")
    write_atomically(tmp_path / "file", bytes(range(256)) * 10)
    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * 10
    assert len(sizes) > 10


def test_order_of_the_system_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it gets its name, the folder after: safe against a power cut."""
    calls: list[str] = []

    def record(name: str, label: Callable[..., str]) -> None:
        real = getattr(os, name)

        def recorded(*arguments: Any) -> Any:
            calls.append(label(*arguments))
            return real(*arguments)

        monkeypatch.setattr(os, name, recorded)

    record("write", lambda *_: "write")
    record("fsync", lambda descriptor: "sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
    record("replace", lambda *_: "rename")
    write_atomically(folder / "kept", NEW)
    assert calls == ["write", "sync file", "rename", "sync folder"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o000, 0o666), (0o077, 0o600), (0o277, 0o400)])
def test_mode_of_the_file(tmp_path: Path, umask: int, mode: int) -> None:
    """A file is for its owner alone, and the umask takes more away."""
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever can guess the temporary name cannot have another file overwritten."""
    (tmp_path / "other").write_bytes(OLD)
    (tmp_path / f".file.tmp-{os.getpid()}").symlink_to(tmp_path / "other")
    with pytest.raises(StorageError, match="symbolic links"):
        write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "other").read_bytes() == OLD


def test_sweep_removes_temporary_files_alone(folder: Path) -> None:
    """What a crash left goes; other files, hidden ones too, stay."""
    for name in (".step-00000002.h5.tmp-1", ".best.h5.tmp-77", ".hidden", "a.tmp-1", ".x.tmp-"):
        (folder / name).write_bytes(b"")
    assert [path.name for path in sweep(folder)] == [".best.h5.tmp-77", ".step-00000002.h5.tmp-1"]
    assert listing(folder) == [".hidden", ".x.tmp-", "a.tmp-1", "kept", "removed"]


def test_a_temporary_folder_is_gone_whatever_line_a_signal_meets(tmp_path: Path) -> None:
    """Of it, of contextlib, and of what removes the folder: a signal is an exception between any two lines."""

    class Signalled(BaseException):
        pass

    def lives_through(lines: int) -> bool:
        def count(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal lines
            lines -= event == "line"
            if lines == 0:
                raise Signalled
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            with temporary_folder(tmp_path, ".made-") as folder:
                (folder / "another").mkdir()
        except Signalled:
            pass
        finally:
            sys.settrace(before)
        return lines > 0

    lines = 1
    while not lives_through(lines):
        lines += 1
        assert not list(tmp_path.iterdir()), lines
    assert lines > 20
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    """In one line, before anything is computed."""
    expected = r"none: nothing can be written there \(No such file or directory\); choose"
    with pytest.raises(StorageError, match=expected), temporary_folder(tmp_path / "none", ".made-"):
        raise AssertionError


def test_what_is_not_there(tmp_path: Path) -> None:
    """A missing folder is empty, a missing file is removed already; a file is no folder."""
    assert listing(tmp_path / "missing") == []
    assert sweep(tmp_path / "missing") == []
    remove(tmp_path / "missing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file: cannot be listed \(Not a directory\)"):
        listing(tmp_path / "file")
    with pytest.raises(StorageError, match=r"missing/x: cannot be written \(No such file or directory\)"):
        write_atomically(tmp_path / "missing" / "x", NEW)


def test_misspelt_failpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """An action that does not exist is an error: a test that relies on it would test nothing."""
    monkeypatch.setenv("DDP_MLP_FAILPOINT", "write:EOI")
    with pytest.raises(ConfigError, match="'write:EOI'"):
        failpoint("open")
