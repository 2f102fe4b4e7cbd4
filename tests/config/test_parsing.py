"""Flags and files: what is read is what was written, and whatever is wrong is one line that names the key."""

import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ddp_mlp.config import Config, dump, parse
from ddp_mlp.errors import ConfigError
from tests.configurations import TRAPS, configs, failure
from tests.conftest import ROOT


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Write a file into a new current folder, and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: str) -> str:
        Path(name).write_text(content, encoding="utf-8")
        return name

    return write


def test_no_flags_give_the_defaults() -> None:
    """An empty command line is the default configuration."""
    assert parse([]) == Config()


@given(configs)
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # to shrink a failure would outlast the test's time
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],  # the file is written anew
)
def test_dump_reads_back(tmp_path: Path, config: Config) -> None:
    """A dumped configuration is read back to an equal one, whatever its texts look like."""
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert parse(["--config", str(path)]) == config


@pytest.mark.parametrize("text", TRAPS)
def test_texts_stay_texts(file: Callable[[str, str], str], text: str) -> None:
    """A text that looks like something else is still that text after a dump, as a value and as a class name."""
    config = Config(x_name=text, y_name=text, class_weight={text: 1.0})
    assert parse(["--config", file("run.yaml", dump(config))]) == config


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "run.toml",
            'hidden = [32]\nepochs = 7\nbatch_size = "full"\nquiet = true\n[class_weight]\n0 = 2\n"a.b" = 1.5\n',
        ),
        ("run.yaml", 'hidden: [32]\nepochs: 7\nbatch_size: full\nquiet: true\nclass_weight: {0: 2, "a.b": 1.5}\n'),
        (
            "run.json",
            '{"hidden": [32], "epochs": 7, "batch_size": "full", "quiet": true, "class_weight": {"0": 2, "a.b": 1.5}}',
        ),
    ],
)
def test_every_file_language(file: Callable[[str, str], str], name: str, content: str) -> None:
    """The same keys in TOML, YAML and JSON give the same configuration."""
    expected = Config(hidden=(32,), epochs=7, batch_size="full", quiet=True, class_weight={"0": 2.0, "a.b": 1.5})
    assert parse(["--config", file(name, content)]) == expected


def test_later_flags_override_the_file(file: Callable[[str, str], str]) -> None:
    """A flag after the file wins over it, and a file after the flag wins over that."""
    path = file("run.toml", "epochs = 7\n")
    assert parse(["--config", path, "--epochs", "5"]).epochs == 5
    assert parse(["--epochs", "5", "--config", path]).epochs == 7


@pytest.mark.parametrize(
    ("flag", "widths"),
    [("[128,64]", (128, 64)), ("[128, 64]", (128, 64)), ("128,64", (128, 64)), ("128", (128,)), ("[]", ())],
)
def test_spellings_of_hidden(flag: str, widths: tuple[int, ...]) -> None:
    """A list of widths may be written with or without brackets and spaces."""
    assert parse(["--hidden", flag]).hidden == parse([f"--hidden={flag}"]).hidden == widths


@pytest.mark.parametrize(
    ("flags", "value"),
    [(["--debug"], True), (["--debug", "true"], True), (["--debug=false"], False), (["--debug", "--quiet"], True)],
)
def test_switches(flags: list[str], value: bool) -> None:
    """A switch may stand alone or with its value."""
    assert parse(flags).debug is value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size", "abc"], 'batch_size = abc: expected an integer or "full"'),
        (["--batch_size", "0"], 'batch_size = 0: must be at least 1, or "full"'),
        (["--hidden", "8,x"], "hidden = 8,x: expected a list of integers such as [128, 64]"),
        (["--hidden", "8,0"], "hidden = [8, 0]: must be a list of integers such as [128, 64], each at least 1"),
        (["--hidden"], "hidden: no value given; expected a list of integers such as [128, 64]"),
        (["--learning_rate", "nan"], "learning_rate = nan: expected a finite number"),
        (["--learning_rate", "0"], "learning_rate = 0.0: must be above 0"),
        (["--max_seconds", "inf"], "max_seconds = inf: expected a finite number or null"),
        (["--seed", "9223372036854775808"], None),
        (["--seed", "-1"], "seed = -1: must be at least 0 and below 9223372036854775808"),
        (["--momentum", "1"], "momentum = 1.0: must be at least 0 and below 1"),
        (["--threads", "0"], "threads = 0: must be at least 1"),
        (["--patience", "0"], "patience = 0: must be at least 1, or null"),
        (["--data", ""], 'data = "": expected text'),
        (["--debug", "maybe"], "debug = maybe: expected true or false"),
        (["--checkpoint_every", "1 day"], None),
        (["--class_weight", "{a: b}"], None),
        (["--class_weight", "{a: -1}"], None),
        (["--weight_decay", "0.1"], "weight_decay = 0.1: needs optimizer = adamw; for adam there is l2"),
        (["--min_learning_rate", "1"], "min_learning_rate = 1.0: must be at most learning_rate, which is 0.003"),
        (["--batchsize", "5"], 'unknown key "batchsize": did you mean batch_size?'),
        (["--batch-size=5"], 'unknown key "batch-size": did you mean batch_size?'),
        (["--epoch", "5"], 'unknown key "epoch": did you mean epochs?'),
        (["--qqqqq", "5"], 'unknown key "qqqqq": --help lists all'),
        (["digits.h5"], "digits.h5: expected --KEY VALUE"),
        (["--config", "no/run.toml"], "no/run.toml: not found"),
    ],
)
def test_bad_flags(argv: list[str], message: str | None) -> None:
    """Each bad flag gives one line with its key: found, expected, remedy."""
    found = failure(lambda: parse(argv))
    assert found.startswith(f"{argv[0][2:]} = ") if message is None else found == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.toml", "batchsize = 5", 'run.toml: line 1: unknown key "batchsize": did you mean batch_size?'),
        ("run.yaml", "\nbatchsize: 5", 'run.yaml: line 2: unknown key "batchsize": did you mean batch_size?'),
        ("run.json", '{"epochs": 1,\n "batchsize": 5}', None),
        ("run.toml", 'batch_size = "abc"', 'run.toml: line 1: batch_size = abc: expected an integer or "full"'),
        ("run.yaml", "# a\nbatch_size: null", 'run.yaml: line 2: batch_size = null: expected an integer or "full"'),
        ("run.yaml", "hidden: 12", "run.yaml: line 1: hidden = 12: expected a list of integers such as [128, 64]"),
        ("run.toml", "epochs = 1\nseed = -1", None),
        ("run.toml", "epochs = 1\nepochs = 2", None),
        ("run.json", '{"a": }', "run.json: Expecting value: line 1 column 7 (char 6)"),
        ("run.toml", "a = = 5", "run.toml: Invalid value (at line 1, column 5)"),
        ("run.yaml", "- 1", "run.yaml: - 1: expected a table of keys and values"),
        ("run.yaml", "", 'run.yaml: "": expected a table of keys and values'),
        ("run.yaml", "a: [1\nb: 2", None),
        ("run.yaml", "epochs: !!int abc", None),
        ("run.yaml", "5: 3", None),
    ],
)
def test_bad_files(file: Callable[[str, str], str], name: str, content: str, message: str | None) -> None:
    """Each bad file gives one line."""
    found = failure(lambda: parse(["--config", file(name, content)]))
    assert found.startswith(f"{name}: ") if message is None else found == message


def test_file_that_is_no_text(file: Callable[[str, str], str]) -> None:
    """A file that is not UTF-8 is refused by name."""
    file("run.yaml", "")
    Path("run.yaml").write_bytes(b"\xff\xfe\x00")
    assert failure(lambda: parse(["--config", "run.yaml"])).startswith("run.yaml: ")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run `parse` in a process of its own."""
    code = "import sys; from ddp_mlp.config import parse; parse(sys.argv[1:])"
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=30, cwd=ROOT)


def test_help_tells_every_key() -> None:
    """Every key is documented: it is in the help, with words beside it and its default."""
    result = run("--help")
    assert result.returncode == 0
    words = " ".join(result.stdout.split())
    for field in dataclasses.fields(Config):
        assert re.search(rf"--{field.name} \S.* [a-z]", words), field.name
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            assert re.search(rf"--{field.name} [^(]+(\([^d][^(]*)*\(default: {field.default}\)", words), field.name


def test_print_config_reads_back(file: Callable[[str, str], str]) -> None:
    """What `--print_config` prints is a file that gives the same configuration."""
    argv = ["--epochs", "3", "--hidden", "7", "--class_weight", "{a: 2}"]
    result = run(*argv, "--print_config")
    assert result.returncode == 0
    assert parse(["--config", file("printed.yaml", result.stdout)]) == parse(argv)


RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_configurations(path: Path) -> None:
    """Every recipe is valid, names its data, and can be changed by flags."""
    config = parse(["--config", str(path), "--epochs", "1"])
    assert config.epochs == 1
    assert f'data = "{config.data}"' in path.read_text(encoding="utf-8")
    assert path.stem in config.data


def test_there_are_recipes() -> None:
    """The recipes are where they are looked for."""
    assert {"digits", "letter"} <= {path.stem for path in RECIPES}


def test_import_loads_nothing_heavy() -> None:
    """Importing and parsing start neither MPI nor NumPy nor HDF5; importing alone does not load the parser."""
    code = (
        "import sys; from ddp_mlp.config import parse; assert 'yaml' not in sys.modules; parse([]);"
        "print([name for name in ('numpy', 'h5py', 'mpi4py') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert result.stdout == "[]\n", result.stderr


BOMB = "\n".join(["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
HOSTILE = {
    "billions.yaml": BOMB,
    "itself.yaml": "hidden: &a [*a]",
    "deep.yaml": "hidden: " + "[" * 30_000,
    "deep table.yaml": "\n".join(" " * i + "a:" for i in range(200)),
    "deep.json": '{"hidden": ' + "[" * 100_000,
    "nested.json": '{"class_weight": ' + '{"a": ' * 500 + "1" + "}" * 501,
    "deep.toml": "hidden = " + "[" * 100_000,
    "huge.yaml": "# " + "x" * 100_000,
    "huge.json": " " * (2 << 20),
    "digits.json": '{"checkpoint_every": "' + "9" * 5000 + '"}',
    "a number.yaml": "seed: " + "9" * 5000,
    "a number.json": '{"seed": ' + "9" * 5000 + "}",
    "a number.toml": "seed = " + "9" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_within_a_second(name: str, tmp_path: Path) -> None:
    """Aliases that multiply, or mean themselves; what is too deep, too long, or too large: one line."""
    (tmp_path / name).write_text(HOSTILE[name])
    parse(["--seed", "1"])  # what is imported late is there
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse(["--config", str(tmp_path / name)])
    assert time.process_time() - began < 1
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_flag_cannot_multiply_either() -> None:
    """YAML on the command line has no aliases."""
    with pytest.raises(ConfigError, match="class_weight"):
        parse(["--class_weight", "{a: &x [1], b: *x}"])


@pytest.mark.parametrize("key", ["data", "init_from", "run_dir", "resume", "trace"])
def test_home_and_variables_in_paths(
    key: str, file: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a file and in a flag they are what a shell would make of them; one that is not set is refused, not made."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.delenv("NOT_SET", raising=False)
    named = file("run.toml", f'{key} = "$SCRATCH/a"')
    assert getattr(parse(["--config", named]), key) == "/scratch/a"
    assert getattr(parse([f"--{key}=~/a"]), key) == "/home/somebody/a"
    assert failure(lambda: parse([f"--{key}", "$NOT_SET/a"])).startswith(f"{key} = $NOT_SET/a: names a variable")
    assert failure(lambda: parse([f"--{key}", "~nobody-of-this-name/a"])).endswith("write the path in full")
    (tmp_path / "~odd$name").touch()
    assert getattr(parse([f"--{key}", "~odd$name"]), key) == "~odd$name"


def test_paths_of_python(tmp_path: Path) -> None:
    """Where a text is a path, a path object will do."""
    assert Config(data=tmp_path / "a.h5", run_dir=tmp_path) == Config(  # type: ignore[arg-type] # the cast under test
        data=str(tmp_path / "a.h5"), run_dir=str(tmp_path)
    )


@pytest.mark.parametrize("text", ["9" * 400, "-" + "9" * 400, "1e400"])
def test_a_number_that_no_float_holds_is_refused(text: str) -> None:
    """In a key that holds a number, one line."""
    with pytest.raises(ConfigError, match="learning_rate"):
        parse(["--learning_rate", text])
