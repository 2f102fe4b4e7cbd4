"""One rule for the files that commands write: what is there is replaced, whole, and what is read never is."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, Program


@pytest.fixture(scope="module")
def run_dir(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run, with its data file beside it."""
    folder = tmp_path_factory.mktemp("overwriting")
    shutil.copy(ROOT / "data" / "digits.h5", folder / "digits.h5")
    flags = ["--data", folder / "digits.h5", "--epochs", "1", "--hidden", "4", "--run_dir", folder / "run", "--quiet"]
    assert run_python("-m", "ddp_mlp.train", *flags).returncode == 0
    return folder / "run"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "command",
    [
        "predict {run} {data} -o out.h5",
        "predict {run} {data} -o out.csv --scores out.json",
        "export {run} out.npz out.c",
        "convert table.csv out.h5 --label y",
        "report {run} -o out.html",
    ],
)
def test_what_is_there_is_replaced(command: str, run_dir: Path, run_python: Program, tmp_path: Path) -> None:
    """The second time as the first, to the same bytes, over whatever else had the name."""
    (tmp_path / "table.csv").write_text("a,b,y\n" + "1,2,0\n2,3,1\n1,5,0\n" * 9)
    words = [word.format(run=run_dir, data=run_dir.parent / "digits.h5") for word in command.split()]
    done = run_python("-m", f"ddp_mlp.{words[0]}", *words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = {path: path.read_bytes() for path in tmp_path.glob("out.*")}
    for path in first:
        path.write_bytes(b"something else")
    done = run_python("-m", f"ddp_mlp.{words[0]}", *words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path, content in first.items():
        assert path.suffix == ".html" or path.read_bytes() == content
        assert path.read_bytes() != b"something else"


@pytest.mark.parametrize(
    "command",
    [
        "predict {run} {data} -o {data}",
        "predict {run} {data} -o {run}/checkpoints/{file}",
        "predict {run} {data} -o out.csv --scores {run}/metrics.jsonl",
        "export {run}/checkpoints/{file} {run}/checkpoints/{file}",
        "convert {data} {data}",
        "verify {data} --certificate {data}",
        "report {run} --data {data} -o {data}",
    ],
)
def test_what_is_read_is_never_written(command: str, run_dir: Path, run_python: Program, tmp_path: Path) -> None:
    """Exit code 2 and one line; the file is as it was."""
    data, [file] = run_dir.parent / "digits.h5", (run_dir / "checkpoints").glob("step-*.h5")
    before = data.read_bytes(), file.read_bytes(), (run_dir / "metrics.jsonl").read_bytes()
    words = command.format(run=run_dir, data=data, file=file.name).split()
    done = run_python("-m", f"ddp_mlp.{words[0]}", *words[1:], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (data.read_bytes(), file.read_bytes(), (run_dir / "metrics.jsonl").read_bytes()) == before


@pytest.mark.parametrize(
    ("name", "outs"),
    [("net.h", "net.c"), ("net.bin", "net.c"), ("net.bin", "a.c net.f90"), ("net_selftest.f90", "net.f90")],
)
def test_what_is_read_is_no_file_beside_the_one_asked_for(
    name: str, outs: str, run_dir: Path, run_python: Program, tmp_path: Path
) -> None:
    """A checkpoint under the name of a header, of weights or of a self-test stays, and nothing else is written."""
    [file] = (run_dir / "checkpoints").glob("step-*.h5")
    shutil.copy(file, tmp_path / name)
    done = run_python("-m", "ddp_mlp.export", name, *outs.split(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: OUT {name}: is read from, and must not be overwritten: choose another file\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("outs", "words"),
    [
        ("a.f90 a_selftest.f90", "OUT a_selftest.f90: writes a_selftest.f90, as a.f90 does"),
        ("a_selftest.f90 a.f90", "OUT a.f90: writes a_selftest.f90, as a_selftest.f90 does"),
        ("a.npz a.bad", "a.bad: must end in "),
    ],
)
def test_an_export_that_cannot_be_whole_writes_nothing(
    outs: str, words: str, run_dir: Path, run_python: Program, tmp_path: Path
) -> None:
    """Of two that would write the same file one was lost; a suffix that is none was seen behind the first file."""
    done = run_python("-m", "ddp_mlp.export", run_dir, *outs.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words}")
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(180)
def test_verify_says_where_its_certificate_is(run_python: Program, tmp_path: Path) -> None:
    """Where it was told to be, on standard error, with the default for none."""
    done = run_python("-m", "ddp_mlp.verify", "--certificate", tmp_path / "c.json", cwd=tmp_path, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(f"{tmp_path / 'c.json'}: the certificate\n")
    assert (tmp_path / "c.json").exists()
