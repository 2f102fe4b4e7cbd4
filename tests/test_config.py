"""The configuration: what is read is what was written, and whatever is wrong is one line that names the key."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ddp_mlp.config import Config, Interval, dump, first_difference, from_dict, parse, parse_interval, to_dict
from ddp_mlp.errors import ConfigError

NAMES = [field.name for field in dataclasses.fields(Config)]

# texts that YAML, unquoted, takes for something else
TRAPS = [
    "1e3",
    "null",
    "true",
    "no",
    "12",
    "0x1F",
    "1:30",
    "2024-01-01",
    "~",
    "# x",
    "a: b",
    "-",
    "==",
    "\x85",
    "\u2028",
]
texts = st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
positive = st.floats(1e-300, 1e300)
intervals = st.integers(1, 10**9) | st.builds(
    "{} {}".format, st.integers(1, 10**9), st.sampled_from(["epochs", "second"])
)
configs = st.builds(
    Config,
    data=texts,
    run_dir=st.none() | texts,
    hidden=st.lists(st.integers(1, 4096), max_size=4).map(tuple),
    batch_size=st.just("full") | st.integers(1, 2**40),
    shards=st.just("auto") | st.integers(1, 1024),
    learning_rate=positive,
    max_seconds=st.none() | positive,
    seed=st.integers(0, 2**63 - 1),
    standardize=st.booleans(),
    class_weight=st.none() | st.just("balanced") | st.dictionaries(texts, positive, max_size=3),
    checkpoint_every=intervals,
    optimizer=st.sampled_from(["sgd", "adamw"]),
)


def failure(action: Callable[[], object]) -> str:
    """Return the message with which the action fails, after checking that it is one line with exit code 2."""
    with pytest.raises(ConfigError) as caught:
        action()
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message
    assert "\n" not in message
    return message


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
    config = Config(data=text, run_dir=text, class_weight={text: 1.0})
    assert parse(["--config", file("run.yaml", dump(config))]) == config


@given(configs)
def test_dict_reads_back_through_json(config: Config) -> None:
    """What `to_dict` gives survives JSON and builds an equal configuration."""
    assert from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False))) == config


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
        ("run.toml", "batchsize = 5", 'unknown key "batchsize": did you mean batch_size?'),
        ("run.yaml", "batchsize: 5", 'unknown key "batchsize": did you mean batch_size?'),
        ("run.toml", 'batch_size = "abc"', 'run.toml: batch_size = abc: expected an integer or "full"'),
        ("run.yaml", "batch_size: null", 'batch_size = null: expected an integer or "full"'),
        ("run.yaml", "hidden: 12", "hidden = 12: expected a list of integers such as [128, 64]"),
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


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*NAMES, "bogus"]), junk, min_size=1, max_size=2))
def test_junk_is_refused_or_valid(values: dict[str, Any]) -> None:
    """Any JSON gives either a configuration that reads back, or one line with a key of it."""
    try:
        config = from_dict(values)
    except ConfigError:
        message = failure(lambda: from_dict(values))
        assert any(name in message for name in values)
    else:
        assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("values", [None, [], "epochs", 5])
def test_from_dict_wants_a_table(values: Any) -> None:
    """A stored configuration that is no table is refused."""
    assert "expected a table" in failure(lambda: from_dict(values))


def test_values_are_cast() -> None:
    """Lists and whole numbers become the type of their key, so that equal configurations compare equal."""
    config = Config(hidden=[8, 4], learning_rate=1, class_weight={"a": 2})  # type: ignore[arg-type] # the cast under test
    assert config == Config(hidden=(8, 4), learning_rate=1.0, class_weight={"a": 2.0})
    assert isinstance(config.hidden, tuple)
    assert isinstance(config.learning_rate, float)


@given(
    st.integers(1, 10**12),
    st.sampled_from(["step", "epoch", "second"]),
    st.booleans(),
    st.sampled_from(["", " ", "  "]),
)
def test_interval_with_unit(count: int, unit: str, plural: bool, space: str) -> None:
    """A count with a unit, singular or plural, is read as that many of them."""
    assert parse_interval(f"{count}{space}{unit}{'s' * plural}") == Interval(count, f"{unit}s")  # type: ignore[arg-type] # built


@given(st.integers(1, 10**12))
def test_interval_without_unit(count: int) -> None:
    """A bare count is steps, as a number or as text."""
    assert parse_interval(count) == parse_interval(str(count)) == Interval(count, "steps")


@given(
    st.integers(max_value=0) | st.text(max_size=12) | st.sampled_from(["0 epochs", "1 day", "1.5 epochs", "-1 epoch"])
)
def test_interval_junk(value: int | str) -> None:
    """Anything else is refused, and what is accepted has a positive count."""
    if re.fullmatch(r"\s*0*[1-9][0-9]*\s*((step|epoch|second)s?)?\s*", str(value)):
        assert parse_interval(value).count > 0
    else:
        assert failure(lambda: parse_interval(value)).startswith("checkpoint_every = ")


def other(name: str) -> Config:
    """Return the default configuration with another value for one key."""
    default = getattr(Config(), name)
    choices: list[Any] = [not default] if isinstance(default, bool) else [4, 0.0005, "x", (5,)]
    choices += [
        "stream",
        "none",
        "float64",
        "sgd",
        "step",
        "valid_accuracy",
        "never",
        "continue",
        "allreduce",
        "balanced",
    ]
    for value in choices:
        try:
            changed = (
                from_dict({"optimizer": "adamw"} | {name: value})
                if name == "weight_decay"
                else from_dict({name: value})
            )
        except ConfigError:
            continue
        if getattr(changed, name) != default:
            return changed
    raise AssertionError(name)


# written out from what each key does, not read off the code: these leave the bits of the run as they are
FREE = {
    *("data", "access", "run_dir", "describe", "teach", "quiet", "debug", "trace", "tensorboard"),
    *("epochs", "max_steps", "max_seconds", "patience", "restore_best", "stall_seconds"),
    *("checkpoint_every", "keep", "resume", "resume_override", "on_save_error", "log_every"),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_resumed_run_may_change(name: str) -> None:
    """A changed key is reported exactly when it decides the bits of the run."""
    asked = other(name)
    stored = dataclasses.replace(Config(), optimizer=asked.optimizer) if name == "weight_decay" else Config()
    found = first_difference(stored, asked)
    assert found == (None if name in FREE else (name, getattr(stored, name), getattr(asked, name)))


def test_learning_rate_needs_the_override() -> None:
    """Only `resume_override` lets a resumed run change the learning rate, and it frees nothing else."""
    assert first_difference(Config(), Config(learning_rate=0.1)) == ("learning_rate", 3e-3, 0.1)
    assert first_difference(Config(), Config(learning_rate=0.1, resume_override=True)) is None
    assert first_difference(Config(), Config(seed=1, resume_override=True)) == ("seed", 0, 1)


def test_auto_takes_the_stored_shards() -> None:
    """Asking for automatic shards agrees with any stored number; another number does not."""
    assert first_difference(Config(shards=16), Config()) is None
    assert first_difference(Config(shards=16), Config(shards=8)) == ("shards", 16, 8)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run `parse` in a process of its own."""
    code = "import sys; from ddp_mlp.config import parse; parse(sys.argv[1:])"
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=30, cwd=root)


def test_help_tells_every_key() -> None:
    """Every key is documented: it is in the help, with words beside it and its default."""
    result = run("--help")
    assert result.returncode == 0
    words = " ".join(result.stdout.split())
    for field in dataclasses.fields(Config):
        assert re.search(rf"--{field.name} \S.* [a-z]", words), field.name
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            assert re.search(rf"--{field.name} [^(]+(\([^d][^(]*)*\(default: {field.default}\)", words), field.name


def test_docstring_documents_every_key_once() -> None:
    """The docstring has one line for each key, in the order of the fields of its theme, and none for anything else."""
    assert Config.__doc__ is not None
    documented = re.findall(r"^ {6}(\w+): \S", Config.__doc__, re.MULTILINE)
    assert sorted(documented) == sorted(NAMES)


def test_print_config_reads_back(file: Callable[[str, str], str]) -> None:
    """What `--print_config` prints is a file that gives the same configuration."""
    argv = ["--epochs", "3", "--hidden", "7", "--class_weight", "{a: 2}"]
    result = run(*argv, "--print_config")
    assert result.returncode == 0
    assert parse(["--config", file("printed.yaml", result.stdout)]) == parse(argv)


RECIPES = sorted((Path(__file__).parents[1] / "scripts" / "recipes").glob("*.toml"))


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
        "import sys; from ddp_mlp.config import parse; assert 'jsonargparse' not in sys.modules; parse([]);"
        "print([name for name in ('numpy', 'h5py', 'mpi4py') if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=root)
    assert result.stdout == "[]\n", result.stderr
