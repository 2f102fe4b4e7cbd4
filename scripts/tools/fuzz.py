"""Feed damaged and hostile files to the program: `python scripts/tools/fuzz.py --seconds 600 --inputs data,config`.

Each case is a function of (seed, number), so that `--replay NUMBER` repeats one. It runs the real command in a forked
child under limits of memory, time and file size, in a folder of its own. A finding is a traceback, an exit code that
the program does not have, death by a signal (a crash, or the limit of time), or a file opened elsewhere: by Python (an
audit hook sees it) or by the HDF5 library (inotify watches the files that hostile inputs point at). Findings are kept,
with the files that cause them.
"""

# ruff: noqa: E402 - threads and MPI are settled before anything that would start them is imported

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # a child forked from threads would miss them

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import gzip
import importlib.util
import io
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.modules["mpi4py"] = None  # type: ignore[assignment] # one process: starting MPI takes longer than a case

from ddp_mlp import convert, predict
from ddp_mlp.config import Config
from ddp_mlp.explaining import describe, teach
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage import checkpoint_image, weights
from ddp_mlp.train import main as train
from ddp_mlp.training import loop

LOADED_ONCE = (describe, teach)
"""What training imports late: here before there are children."""
EXIT_CODES = {0, 1, 2, 65, 74, 75, 78}
"""1 is a loss that is not finite: weights of 1e30 are weights; 78 a checkpoint that says that other kernels made it."""
CASE_SECONDS = 10
"""Of processor time; on the clock six times as many, for a machine that has other work."""
FILE_BYTES = 256 << 20
OPENED = 99
"""A child's exit code after it has opened a file elsewhere."""
IN_OPEN = 0x20
NASTY: tuple[str, ...] = ("", "0", "-1", "1e999", "nan", "-inf", "9" * 40, "null", "true", "[]", "{}", '"', "'", "\x00")
NASTY += ("!!python/object/apply:os.system ['x']", "&a", "*a", "[" * 200, "{a: " * 100, "1" * 5000, "\r", "\t", ";")
NASTY += ("../../etc/passwd", "/etc/passwd", "ÿ", "\ufeff")
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)

Random = random.Random


class Case(NamedTuple):
    """One command to run in the case's folder."""

    command: Callable[[Sequence[str]], Any]
    arguments: list[str]


class Seeds(NamedTuple):
    """Intact files, by name, from which cases are made."""

    files: dict[str, bytes]
    baits: Path
    """The folder of files that nothing may open."""


# ---- mutation --------------------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: Random) -> bytes:
    """Return the bytes with a few changes: bits, integers, cuts, repeats."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        at, kind = rng.randrange(len(out)), rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            value = (rng.choice(NUMBERS) & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("little", "big")))
            out[at : at + size] = value
        elif kind == 3:
            del out[at : at + rng.choice((1, 8, 100, len(out)))]
        elif kind == 4:
            out[at:at] = out[at : at + rng.choice((1, 8, 100))]
        elif kind == 5:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 64))))
        else:
            other = rng.randrange(len(out))
            out[at : at + 16] = out[other : other + 16]
    return bytes(out)


def reworded(data: bytes, rng: Random) -> bytes:
    """Return a text with tokens and lines changed, and now and then bytes."""
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 5))):
        lines = text.splitlines(keepends=True) or [""]
        at, kind = rng.randrange(len(lines)), rng.randrange(5)
        words = lines[at].replace(",", " ").replace(":", " ").replace("=", " ").split() or [""]
        if kind == 0:
            lines[at] = lines[at].replace(rng.choice(words), rng.choice(NASTY), 1)
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines.insert(at, rng.choice(lines))
        elif kind == 3:
            lines[at] = lines[at].rstrip("\n") + rng.choice(NASTY) + "\n"
        else:
            lines[at] = lines[at].replace(rng.choice(",:=[]{}\"'# "), rng.choice(NASTY), rng.choice((1, -1)))
        text = "".join(lines)
    out = text.encode("utf-8", "surrogatepass")
    return damaged(out, rng) if rng.random() < 0.3 else out


def restructured(path: Path, rng: Random, baits: Path) -> None:
    """Change an HDF5 file through its library: shapes, types, links to elsewhere, filters, attributes."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        for _ in range(rng.choice((1, 1, 2, 3))):
            name = rng.choice(names)
            if name not in file:
                continue
            kind = rng.randrange(10)
            if kind == 0:
                del file[name]
            elif kind == 1:
                shape = rng.choice(((), (0,), (3,), (2, 2), (10**9,), (10**6, 10**6), (1,) * 20))
                del file[name]
                file.create_dataset(name, shape, rng.choice(("f4", "f8", "i8", "u1", "c8", "S5", "f2", "?", ">f8")))
            elif kind == 2:
                del file[name]
                file[name] = h5py.ExternalLink(str(baits / "bait.h5"), "/train/X")
            elif kind == 3:
                del file[name]
                file.create_dataset(name, (9, 3), "f4", external=[(str(baits / "bait.raw"), 0, 108)])
            elif kind == 4:
                layout = h5py.VirtualLayout((9, 3), "f4")
                layout[...] = h5py.VirtualSource(str(baits / "bait.h5"), "train/X", (9, 3))
                del file[name]
                file.create_virtual_dataset(name, layout)
            elif kind == 5:
                del file[name]
                file[name] = h5py.SoftLink(rng.choice(("/", name, "/train", "/nowhere", "/" + rng.choice(names))))
            elif kind == 6:
                del file[name]
                file.create_dataset(name, data=np.zeros((10_000, 100)), compression="gzip", chunks=(10_000, 100))
            elif kind == 7:
                values: Any = (
                    "x",
                    "",
                    7,
                    -1,
                    1e308,
                    np.nan,
                    ["a", "b"],
                    np.zeros((3, 3)),
                    "[" * 5000,
                    '{"a": 1}',
                    b"\xff",
                )
                attribute = rng.choice(("classes", "format", "config", "epoch", "step", "x"))
                rng.choice((file, file[name])).attrs[attribute] = rng.choice(values)
            elif (
                kind == 8
                and isinstance(file[name], h5py.Dataset)
                and 0 < file[name].size <= 10**6
                and file[name].dtype.kind in "fiu"
            ):
                array = file[name][()]
                flat = np.atleast_1d(array).reshape(-1)
                with np.errstate(all="ignore"):
                    value = np.array(rng.choice((0, 1, 255, np.nan, np.inf, 1e30))).astype(flat.dtype)
                flat[rng.randrange(flat.size)] = value
                del file[name]
                file[name] = flat.reshape(array.shape)
            else:
                del file[name]
                texts = np.array(["a", "b"], dtype=h5py.string_dtype())
                file[name] = rng.choice(("text", texts, np.zeros(3, "i4,f8"), h5py.Empty("f4")))
            names = []
            file.visit(names.append)
            if not names:
                return


def with_damaged_heap(image: bytes, rng: Random) -> bytes:
    """Damage the global heaps of an HDF5 file, where text of variable length lies: sizes, numbers, contents."""
    out = bytearray(image)
    at = out.find(b"GCOL")
    while at >= 0:
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = at + rng.choice((8, 16, 18, 24, 32, 40, 56))
            size = rng.choice((2, 8))
            value = rng.choice((0, 0, 1, 7, 2**16 - 1, 2**31, 2**63 - 8, 2**64 - 1)) & ((1 << 8 * size) - 1)
            out[place : place + size] = value.to_bytes(size, "little")
        at = out.find(b"GCOL", at + 4)
    return bytes(out)


def forged(value: Any, rng: Random) -> Any:
    """Return what JSON can hold with a few values put in the place of others."""
    odd: tuple[Any, ...] = (
        None,
        -1,
        0,
        2**31,
        2**60,
        2**63,
        10**400,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        [],
        {},
        True,
    )
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        changed = {**value, name: forged(value[name], rng)}
        if rng.random() < 0.1:
            del changed[name]
        return changed
    if isinstance(value, list | tuple) and value and rng.random() < 0.7:
        items = list(value)
        at = rng.randrange(len(items))
        items[at] = forged(items[at], rng)
        return items
    return rng.choice(odd)


# ---- the inputs -------------------------------------------------------------------------------------------------


def data_case(seeds: Seeds, rng: Random, folder: Path) -> Case:
    """Damage a data set, for training, prediction or inspection."""
    path = folder / "data.h5"
    if rng.random() < 0.15:
        path.write_bytes(with_damaged_heap(seeds.files["packed.h5"], rng))
    else:
        _write_hdf5(path, seeds.files[rng.choice(("plain.h5", "weighted.h5", "packed.h5"))], rng, seeds.baits)
    command = rng.randrange(4)
    if command == 0:
        return Case(convert.main, ["--inspect", "data.h5"])
    if command == 1:
        (folder / "model.h5").write_bytes(seeds.files["checkpoint.h5"])
        return Case(predict.main, ["model.h5", "data.h5", "--split", "valid", "-o", rng.choice(("out.h5", "out.csv"))])
    access = rng.choice((["--access", "stream", "--shuffle", "blocks"], []))
    return Case(train, [*RUN, "--run_dir", "run", "--max_steps", "2", *access])


def checkpoint_case(seeds: Seeds, rng: Random, folder: Path) -> Case:
    """Damage a checkpoint, half of the time with a seal that fits what has become of it."""
    image = seeds.files["checkpoint.h5"]
    path = folder / "model.h5"
    if rng.random() < 0.3:  # whole and signed, with other numbers
        found, part = checkpoint_image.decode(image, "seed"), rng.choice(("config", "progress", "data", "versions"))
        changed = {part: forged(getattr(found, part), rng)}
        if rng.random() < 0.3:
            changed["step"] = rng.choice((0, 1, 3, 2**62))
        with contextlib.suppress(Exception):  # what JSON or the format itself refuses
            image = bytes(checkpoint_image.encode(dataclasses.replace(found, **changed)))
    elif rng.random() < 0.5:
        _write_hdf5(path, image, rng, seeds.baits)
        image = path.read_bytes()
        if rng.random() < 0.9 and len(image) > checkpoint_image.USER_BLOCK:
            body = memoryview(image)[checkpoint_image.USER_BLOCK :]
            image = checkpoint_image.user_block(body, 1) + bytes(body)
    else:
        image = damaged(image, rng)
    path.write_bytes(image)
    (folder / "data.h5").write_bytes(seeds.files["plain.h5"])
    command = rng.randrange(3)
    if command == 0:
        return Case(predict.main, ["model.h5", "data.h5", "--split", "valid"])
    if command == 1:
        (folder / "run" / "checkpoints").mkdir(parents=True)
        path.rename(folder / "run" / "checkpoints" / "step-00000002.h5")
        return Case(train, [*RUN, "--run_dir", "run", "--max_steps", "3"])
    return Case(train, [*RUN, "--run_dir", "run", "--max_steps", "1", "--init_from", "model.h5"])


def weights_case(seeds: Seeds, rng: Random, folder: Path) -> Case:
    """Damage a network of another program, to begin with."""
    name = rng.choice([name for name in ("model.npz", "packed.npz", "model.safetensors") if name in seeds.files])
    content = seeds.files[name]
    if name == "packed.npz" and rng.random() < 0.5:  # the archive is whole, its members are not
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.namelist():
                new.writestr(member, damaged(old.read(member), rng) if rng.random() < 0.5 else old.read(member))
        content = made.getvalue()
    else:
        content = damaged(content, rng)
    (folder / name).write_bytes(content)
    (folder / "data.h5").write_bytes(seeds.files["plain.h5"])
    return Case(train, [*RUN, "--run_dir", "run", "--max_steps", "1", "--init_from", name])


def bomb(name: str, rng: Random) -> bytes:
    """Return a configuration that is small and means much."""
    depth, width = rng.choice((5, 20, 1000, 100_000)), rng.choice((2, 9, 50))
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, min(depth, 30)))
    texts = (
        f"a0: &a0 [1]\n{levels}\n",
        "hidden: &a [*a, *a]\n",
        "hidden" + (" = " if name.endswith("toml") else ": ") + "[" * depth,
        '{"class_weight": ' + '{"a": ' * depth + "1" + "}" * (depth + 1),
        "seed" + (" = " if name.endswith("toml") else ": ") + "9" * depth,
        "".join(f"a{i}: 1\n" for i in range(depth)),
        "# " + "x" * (depth * 20),
    )
    return rng.choice(texts).encode()


def config_case(seeds: Seeds, rng: Random, folder: Path) -> Case:
    """Damage a configuration file in one of its languages."""
    name = rng.choice(("run.toml", "run.yaml", "run.json"))
    (folder / name).write_bytes(bomb(name, rng) if rng.random() < 0.15 else reworded(seeds.files[name], rng))
    if rng.random() < 0.2:  # a language under another's name
        other = rng.choice(("run.toml", "run.yaml", "run.json"))
        (folder / name).rename(folder / other)
        name = other
    return Case(train, ["--config", name, "--print_config"])


def convert_case(seeds: Seeds, rng: Random, folder: Path) -> Case:
    """Damage tables and arrays to convert."""
    kind = rng.choice(("table.csv", "table.tsv", "idx", "npy", "X.npz", "other.h5", "quoted.csv"))
    names = {"idx": ["images.idx3-ubyte", "labels.idx1-ubyte"], "npy": ["X.npy", "y.npy"]}.get(kind, [kind])
    for name in names:
        content = seeds.files[name]
        if name == names[-1] or rng.random() < 0.5:
            content = reworded(content, rng) if kind.endswith(("csv", "tsv")) else damaged(content, rng)
        if rng.random() < (0.5 if kind in ("idx", "npy") else 0.1):
            content = gzip.compress(content, rng.choice((0, 9)))
            if rng.random() < 0.3:  # its trailer: checksum and length
                content = content[:-8] + rng.choice((b"", content[-8:-4], damaged(content[-8:], rng), content[-8:] * 2))
            content = damaged(content, rng) if rng.random() < 0.4 else content
            names = [n + ".gz" if n == name else n for n in names]
            name += ".gz"
        (folder / name).write_bytes(content)
    labels: Any = ([], ["--label", "-1"], ["--label", "kind"], ["--label", "0"])
    label = rng.choice(labels) if kind.endswith(("csv", "tsv")) else []
    order = rng.choice(([], ["--order", "stratified", "--test", "0.2"], ["--test", "2", "--valid", "1"]))
    return Case(convert.main, [*names, "out.h5", *label, *order])


INPUTS = {
    "data": data_case,
    "checkpoint": checkpoint_case,
    "config": config_case,
    "convert": convert_case,
    "weights": weights_case,
}
RUN = ["--data", "data.h5", "--hidden", "[3]", "--batch_size", "8", "--quiet", "--stall_seconds", "0"]


def _write_hdf5(path: Path, content: bytes, rng: Random, baits: Path) -> None:
    path.write_bytes(content)
    if rng.random() < 0.5:
        # A change that the library refuses leaves what came before.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RuntimeError):
            restructured(path, rng, baits)
    if rng.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))


def make_seeds(folder: Path) -> Seeds:
    """Make the intact files, and the baits. What one case has proven of this machine, the next one finds there, too."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3)).astype(np.float32), rng.integers(0, 3, 30).astype(np.uint8)
    baits = folder / "baits"
    baits.mkdir()
    files: dict[str, bytes] = {}

    def keep(path: Path) -> None:
        files[path.name] = path.read_bytes()

    for name in ("plain.h5", "weighted.h5", "packed.h5", "other.h5"):
        with h5py.File(folder / name, "w") as file:
            for split, part in (("train", slice(0, 20)), ("valid", slice(20, 30))):
                packing = {"compression": "gzip", "chunks": (7, 3)} if name == "packed.h5" else {}
                file.create_dataset(f"{split}/X", data=X[part], **packing)
                file[f"{split}/y"] = y[part]
                if name == "weighted.h5":
                    file[f"{split}/w"] = np.ones(len(X[part]))
            if name == "packed.h5":
                file.attrs["classes"] = ["a", "b", "c"]
            if name == "other.h5":
                file["X"], file["y"] = X, y
        keep(folder / name)
    shutil.copy(folder / "plain.h5", baits / "bait.h5")
    (baits / "bait.raw").write_bytes(X[:9].tobytes())
    places = {"data": str(folder / "plain.h5"), "run_dir": str(folder / "run")}
    config = Config(hidden=(3,), batch_size=8, max_steps=2, quiet=True, **places)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(io.StringIO()):
        loop.train(config, SingleProcess())
    files["checkpoint.h5"] = next((folder / "run" / "checkpoints").glob("step-*.h5")).read_bytes()

    network = weights.read(next((folder / "run" / "checkpoints").glob("step-*.h5")))
    weights.write_npz(folder / "model.npz", network)
    arrays: dict[str, Any] = dict(network.parameters)
    np.savez_compressed(folder / "packed.npz", **arrays)
    for name in ("model.npz", "packed.npz"):
        keep(folder / name)
    if importlib.util.find_spec("safetensors"):
        weights.write_safetensors(folder / "model.safetensors", network)
        keep(folder / "model.safetensors")

    keys: dict[str, Any] = {"hidden": [8, 4], "epochs": 3, "learning_rate": 0.01, "run_dir": "runs/x", "quiet": True}
    keys |= {"optimizer": "adamw", "weight_decay": 0.1, "batch_size": "full", "checkpoint_every": "2 epochs"}
    keys |= {"class_weight": {"a": 2.0, "b": 1.0}}
    files["run.json"] = json.dumps(keys, indent=1).encode()
    files["run.yaml"] = "".join(f"{name}: {json.dumps(value)}\n" for name, value in keys.items()).encode()
    table = keys.pop("class_weight")
    toml = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    files["run.toml"] = "\n".join([*toml, "[class_weight]", *(f"{k} = {v}" for k, v in table.items()), ""]).encode()

    rows = [f"{a:.3f},{b:.3f},{c:.3f},{'abc'[label]}" for (a, b, c), label in zip(X, y, strict=True)]
    files["table.csv"] = "\n".join(["one,two,three,kind", *rows, ""]).encode()
    files["table.tsv"] = files["table.csv"].replace(b",", b"\t")
    quoted = [f'"{row.split(",")[0]}",2,3,"x,{i % 3}"' for i, row in enumerate(rows)]
    files["quoted.csv"] = "\n".join(['"o,ne","t""wo",three,kind', *quoted, ""]).encode()
    files["images.idx3-ubyte"] = struct.pack(">BBBBIII", 0, 0, 8, 3, 30, 2, 2) + bytes(range(120))
    files["labels.idx1-ubyte"] = struct.pack(">BBBBI", 0, 0, 8, 1, 30) + y.tobytes()
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y)
    np.savez(folder / "X.npz", X=X, y=y)
    for name in ("X.npy", "y.npy", "X.npz"):
        keep(folder / name)
    return Seeds(files, baits)


# ---- running a case --------------------------------------------------------------------------------------------------


class Watch:
    """Hears whether any process opens a bait (inotify(7))."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        for bait in folder.iterdir():
            libc.inotify_add_watch(self._descriptor, str(bait).encode(), IN_OPEN)

    def heard(self) -> bool:
        """Tell whether a bait has been opened since the last call."""
        try:
            return bool(os.read(self._descriptor, 65536))
        except BlockingIOError:
            return False


def run_case(case: Case, folder: Path, megabytes: int) -> tuple[int, str]:
    """Run a case in a child; return what waitpid says (negative: a signal) and what went to stderr."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _confine(folder, megabytes)
            code = case.command(case.arguments) or 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), (folder / "stderr").read_text(errors="replace")


def _confine(folder: Path, megabytes: int) -> None:
    os.chdir(folder)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (CASE_SECONDS, CASE_SECONDS))
    signal.alarm(6 * CASE_SECONDS)
    home = [
        str(folder),
        os.environ["XDG_CACHE_HOME"],
        sys.prefix,
        sys.base_prefix,
        "/proc/",
        "/sys/",
        "/dev/",
        "/etc/localtime",
        "/usr/share/zoneinfo/",  # pyarrow looks up UTC
        *filter(None, sys.path),
    ]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(tuple(home)) and os.path.exists(path):
                os.write(2, f"opened {path}\n".encode())
                os._exit(OPENED)
        elif event == "subprocess.Popen" and arguments[0] == sys.executable:
            return  # what reads attributes within limits
        elif event in ("os.system", "subprocess.Popen", "socket.connect"):
            os.write(2, f"{event} {arguments}\n".encode())
            os._exit(OPENED)

    sys.addaudithook(audit)


def judged(code: int, stderr: str, bait_opened: bool) -> str | None:
    """Return what is wrong with an outcome, or None."""
    if bait_opened or code == OPENED:
        return "opened a file elsewhere"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if "Traceback (most recent call last)" in stderr:
        return "traceback: " + stderr.strip().splitlines()[-1][:100]
    if code not in EXIT_CODES:
        return f"exit code {code}"
    if code and stderr.count("\n") != 1:
        return f"{stderr.count(chr(10))} lines on stderr"
    return None


def main() -> int:
    """Run cases until the time is up; return 1 if there are findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=60, help="how long, over all inputs (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", default=",".join(INPUTS), help=f"which of {', '.join(INPUTS)} (all)")
    parser.add_argument("--megabytes", type=int, default=2048, help="address space of a child, as ulimit -v (2048)")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for what is found")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="run this case alone and show its stderr")
    arguments = parser.parse_args()
    inputs = arguments.inputs.split(",")
    if unknown := set(inputs) - set(INPUTS):
        parser.error(f"--inputs: {', '.join(sorted(unknown))}: expected some of {', '.join(INPUTS)}")

    with tempfile.TemporaryDirectory() as name:
        seeds = make_seeds(Path(name))
        watch = Watch(seeds.baits)
        codes: dict[str, collections.Counter[int]] = {kind: collections.Counter() for kind in inputs}
        findings: collections.Counter[str] = collections.Counter()
        end, number = time.monotonic() + arguments.seconds, arguments.replay or 0
        while time.monotonic() < end:
            kind = inputs[number % len(inputs)]
            folder = Path(name) / "case"
            folder.mkdir()
            case = INPUTS[kind](seeds, random.Random(f"{arguments.seed} {number}"), folder)
            files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            watch.heard()
            code, stderr = run_case(case, folder, arguments.megabytes)
            codes[kind][code] += 1
            wrong = judged(code, stderr, watch.heard())
            if wrong is not None:
                findings[f"{kind}: {wrong}"] += 1
                if findings[f"{kind}: {wrong}"] <= 3:  # more of the same teach nothing
                    kept = arguments.findings / f"{kind}-{arguments.seed}-{number}"
                    for path, content in files.items():
                        target = kept / path.relative_to(folder)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(content)
                    words = [case.command.__module__, *case.arguments]
                    (kept / "finding.txt").write_text(f"{wrong}\n{' '.join(words)}\n\n{stderr}")
                    print(f"{kept}: {wrong}", flush=True)
            shutil.rmtree(folder)
            if arguments.replay is not None:
                print(f"{case.command.__module__} {' '.join(case.arguments)}: {code}\n{stderr}", file=sys.stderr)
                break
            number += 1
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} s of processor time in cases with seed {arguments.seed}")
    for kind, counted in codes.items():
        print(f"{kind}: {counted.total()} cases, by exit code {dict(sorted(counted.items()))}")
    for wrong, count in findings.most_common():
        print(f"FOUND {count} × {wrong}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
