"""A network as Fortran 2008: compiled without a warning, it computes what the description says."""

import re
from pathlib import Path

import numpy as np
import pytest

from ddp_mlp.exporting.description import ACTIVATIONS, OUTPUTS, Description
from ddp_mlp.exporting.fortran_code import fortran_selftest, fortran_source, module_name
from ddp_mlp.exporting.panels import in_a_file, in_panels
from tests.exported import FORTRAN_WARNINGS, Compiled, answers, build, compiler, described, difference, run

CHECKED = ("-O1", "-g", "-fcheck=all", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TRAPS = "-ffpe-trap=invalid,zero,overflow"


def selftest(network: Description, folder: Path, *flags: str) -> None:
    """Write, compile and run the self-test: it passes."""
    (folder / "model.f90").write_text(fortran_source(network, "model"), encoding="utf-8")
    (folder / "model_selftest.f90").write_text(fortran_selftest(network, "model"), encoding="utf-8")
    if in_a_file(network):
        (folder / "model.bin").write_bytes(in_panels(network).image())
    sources = ("model.f90", "model_selftest.f90")
    build(folder, compiler("gfortran"), *FORTRAN_WARNINGS, *flags, "-o", "selftest", *sources)
    outcome = run(folder, "./selftest")
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome.stdout + outcome.stderr
    assert outcome.stdout.endswith("passed\n")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, dtype: str, tmp_path: Path) -> None:
    """Rows together and one by one are the definition's, within rounding; no exception of arithmetic is raised."""
    network = described(activation=activation, output="identity", dtype=dtype)
    X, Y = network.examples or (np.empty(0), np.empty(0))
    compiled = Compiled(network, tmp_path, "f90", "gfortran", "-O3", "-march=native", TRAPS)
    assert difference(network, compiled.many(X), Y) <= network.tolerance
    assert difference(network, np.stack([compiled.one(x) for x in X]), Y) <= network.tolerance


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output(output: str, tmp_path: Path) -> None:
    """With every check of gfortran and both sanitizers, which stop at the first finding."""
    selftest(described(output=output), tmp_path, *CHECKED)


def test_functions_may_differ(tmp_path: Path) -> None:
    """From hidden layer to hidden layer, and from output to output."""
    activations, outputs = ("tanh", "relu", "tanh", "elu"), ("softplus", "identity", "relu", "identity")
    selftest(described((3, 5, 6, 7, 8, 4), activations, outputs), tmp_path, *CHECKED)


@pytest.mark.parametrize("widths", [(1, 1), (5, 2), (3, 1, 1), (130, 65, 200, 17), (2, 300, 4)])
def test_every_shape(widths: tuple[int, ...], tmp_path: Path) -> None:
    """No hidden layer, one of anything, and widths on both sides of panels, groups and chunks."""
    selftest(described(widths, "tanh"), tmp_path, *CHECKED, TRAPS)


@pytest.mark.parametrize("exact", [False, True])
def test_a_hundred_layers(exact: bool, tmp_path: Path) -> None:
    """Their widths and places take more than a line."""
    shape = (3, *(12 + l % 9 for l in range(99)), 2)
    source = fortran_source(described(shape, "tanh", exact=exact), "model")
    assert max(len(line) for line in source.splitlines() if not line.lstrip().startswith("!")) <= 132
    (tmp_path / "model.f90").write_text(source, encoding="utf-8")
    build(tmp_path, compiler("gfortran"), *FORTRAN_WARNINGS, "-O0", "-c", "model.f90")


def test_rows_have_the_same_bits_in_any_block(tmp_path: Path) -> None:
    """In a group, in a group that is filled up, and among many blocks."""
    network = described((40, 90, 35, 4), "gelu", "identity")
    compiled = Compiled(network, tmp_path, "f90", "gfortran", "-O3", "-march=native")
    X = np.random.default_rng(3).normal(size=(200, 40)) * 30
    Y = compiled.many(X)
    assert difference(network, Y, answers(network, X)) <= network.tolerance
    for rows in (0, 1, 3, 4, 5, 7, 8, 9, 63, 64, 65):
        np.testing.assert_array_equal(compiled.many(X[:rows]), Y[:rows])
        np.testing.assert_array_equal(compiled.many(X[rows:]), Y[rows:])


def test_a_wrong_weight_fails_the_selftest(tmp_path: Path) -> None:
    """The planted fault: one weight is another number."""
    network = described((2, 1), output="identity")
    source = fortran_source(network, "model")
    before, after = source.split("data weights(1:48) / &\n", 1)
    (tmp_path / "model.f90").write_text(
        before + "data weights(1:48) / &\n        0.125, " + after.split(",", 1)[1].lstrip(), encoding="utf-8"
    )
    (tmp_path / "model_selftest.f90").write_text(fortran_selftest(network, "model"), encoding="utf-8")
    build(tmp_path, compiler("gfortran"), "-o", "selftest", "model.f90", "model_selftest.f90")
    outcome = run(tmp_path, "./selftest")
    assert outcome.returncode == 1
    assert "FAILED" in outcome.stderr


def test_names_are_the_datas(tmp_path: Path) -> None:
    """Whatever is in them, they arrive byte by byte; more names than one statement has lines do too."""
    network = described((400, 3))
    (tmp_path / "model.f90").write_text(fortran_source(network, "model"), encoding="utf-8")
    program = (
        "program names\n  use model, only: feature_names, output_names, label\n  integer :: k\n"
        "  do k = 1, 400\n    write (*, '(2a)', advance='no') trim(feature_names(k)), char(0)\n  end do\n"
        "  do k = 1, 3\n    write (*, '(2a)', advance='no') trim(output_names(k)), char(0)\n  end do\n"
        "  write (*, '(2i2)', advance='no') label([0.2d0, 0.4d0, 0.4d0]), label([0.1d0, 0.1d0, 0.2d0])\nend program\n"
    )
    (tmp_path / "names.f90").write_text(program)
    build(tmp_path, compiler("gfortran"), *FORTRAN_WARNINGS, "-o", "names", "model.f90", "names.f90")
    *names, labels = run(tmp_path, "./names").stdout.split("\0")
    assert tuple(names) == (*(network.feature_names or ()), *(network.output_names or ()))
    assert labels.split() == ["2", "3"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_input_that_is_not_finite_is_not_hidden(activation: str, bad: float, tmp_path: Path) -> None:
    """NaN comes out, from functions that are finite at infinity too."""
    compiled = Compiled(described(activation=activation), tmp_path, "f90", "gfortran", "-O3", "-march=native")
    X = np.ones((9, 7))
    X[4, 2] = bad
    assert np.isnan(compiled.one(X[4])).all()
    assert np.isnan(compiled.many(X)).all(axis=1).tolist() == [row == 4 for row in range(9)]


@pytest.mark.parametrize("stem", ["exp", "Real", "wp", "weights", "f_relu", "x", "merge", "output_names_1", "n" * 80])
def test_a_file_may_have_any_name(stem: str, tmp_path: Path) -> None:
    """Also one that the code itself has for something else; the longest one fits into every line."""
    network = described((2, 3, 2))
    for end, text in (("", fortran_source(network, stem)), ("_selftest", fortran_selftest(network, stem))):
        (tmp_path / f"{stem}{end}.f90").write_text(text, encoding="utf-8")
    build(tmp_path, compiler("gfortran"), *FORTRAN_WARNINGS, "-o", "test", f"{stem}.f90", f"{stem}_selftest.f90")
    assert run(tmp_path, "./test").stdout.endswith("passed\n")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("widths", [(3, *range(4, 4 + len(ACTIVATIONS)), 2), (300, 700, 3)])
def test_no_word_of_the_code_is_a_module(widths: tuple[int, ...], exact: bool) -> None:
    """Whatever the network is made of: each word of it, outside of comments and strings, gets an end."""
    activations = ACTIVATIONS if len(widths) > 3 else ("relu",)
    for output in ("identity", "softmax"):
        network = described(widths, activations, output, exact=exact)
        code = fortran_source(network, "surrogate") + fortran_selftest(network, "surrogate")
        words = set(re.findall(r"\b[a-z]\w*", re.sub(r"!.*|'[^']*'", " ", code).lower()))
        assert len(words) > 100
        assert {word for word in words if module_name(word) == word} == {"surrogate", "surrogate_selftest"}


def test_large_networks_read_their_weights_from_a_file(tmp_path: Path) -> None:
    """Once, and no file but the right one: the outputs are NaN until then."""
    network = described((300, 700, 3))
    X, Y = network.examples or (np.empty(0), np.empty(0))
    compiled = Compiled(network, tmp_path, "f90", "gfortran", "-O2")
    assert np.isnan(compiled.many(X)).all()
    good = (tmp_path / "model.bin").read_bytes()
    bad = tmp_path / "bad.bin"
    flipped = bytearray(good)
    flipped[12345] ^= 1
    for image, status in ((good[:-1], 2), (good + b"\0", 2), (b"", 2), (bytes(flipped), 3), (good, 0)):
        bad.write_bytes(image)
        assert compiled.load(bad) == status
        assert np.isnan(compiled.one(X[0])).all() == (status != 0)
    assert compiled.load(tmp_path / "none.bin") == 1
    assert difference(network, compiled.many(X), Y) <= network.tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_selftest_of_a_large_network(dtype: str, tmp_path: Path) -> None:
    """It reads the file beside it; the bounds are checked."""
    selftest(described((300, 700, 3), dtype=dtype), tmp_path, *CHECKED)
