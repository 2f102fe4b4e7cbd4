"""A network as C99: compiled without a warning, it computes what the description says."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from ddp_mlp.exporting.c_code import c_header, c_source
from ddp_mlp.exporting.description import ACTIVATIONS, OUTPUTS, Description
from ddp_mlp.exporting.panels import in_panels
from tests.exported import C_WARNINGS, Compiled, answers, build, compiler, described, difference, run

COMPILERS = ("gcc", "clang")
SANITIZED = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def selftest(network: Description, folder: Path, cc: str, *flags: str) -> None:
    """Write, compile and run the self-test: it passes in silence but for its line."""
    (folder / "model.c").write_text(c_source(network, "model"), encoding="utf-8")
    build(folder, compiler(cc), *C_WARNINGS, *flags, "-DSELFTEST", "-o", "selftest", "model.c", "-lm")
    outcome = run(folder, "./selftest")
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome.stdout + outcome.stderr
    assert outcome.stdout.endswith("passed\n")


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, dtype: str, cc: str, tmp_path: Path) -> None:
    """Rows together and one by one are the definition's, within rounding."""
    network = described(activation=activation, output="identity", dtype=dtype)
    X, Y = network.examples or (np.empty(0), np.empty(0))
    compiled = Compiled(network, tmp_path, "c", cc, "-O2")
    assert difference(network, compiled.many(X), Y) <= network.tolerance
    assert difference(network, np.stack([compiled.one(x) for x in X]), Y) <= network.tolerance


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output(output: str, cc: str, tmp_path: Path) -> None:
    """With the address and undefined-behaviour sanitizers, which stop at the first finding."""
    selftest(described(output=output), tmp_path, cc, *SANITIZED)


@pytest.mark.parametrize("cc", COMPILERS)
def test_functions_may_differ(cc: str, tmp_path: Path) -> None:
    """From hidden layer to hidden layer, and from output to output."""
    activations, outputs = ("tanh", "relu", "tanh", "elu"), ("softplus", "identity", "relu", "identity")
    selftest(described((3, 5, 6, 7, 8, 4), activations, outputs), tmp_path, cc, *SANITIZED)


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("widths", [(1, 1), (5, 2), (3, 1, 1), (130, 65, 200, 17), (2, 300, 4)])
def test_every_shape(widths: tuple[int, ...], cc: str, tmp_path: Path) -> None:
    """No hidden layer, one of anything, and widths on both sides of panels, groups and chunks."""
    selftest(described(widths, "tanh"), tmp_path, cc, *SANITIZED)


@pytest.mark.parametrize("contract", ["-ffp-contract=off", "-ffp-contract=fast"])
@pytest.mark.parametrize("cc", COMPILERS)
def test_rows_have_the_same_bits_in_any_block(cc: str, contract: str, tmp_path: Path) -> None:
    """In a group, in a group that is filled up, and among many blocks; alone too, where nothing is contracted."""
    network = described((40, 90, 35, 4), "gelu", "identity")
    compiled = Compiled(network, tmp_path, "c", cc, "-O3", "-march=native", contract)
    X = np.random.default_rng(3).normal(size=(200, 40)) * 30
    Y = compiled.many(X)
    assert difference(network, Y, answers(network, X)) <= network.tolerance
    for rows in (0, 1, 3, 4, 5, 7, 8, 9, 63, 64, 65):
        np.testing.assert_array_equal(compiled.many(X[:rows]), Y[:rows])
        np.testing.assert_array_equal(compiled.many(X[rows:]), Y[rows:])
    if contract == "-ffp-contract=off":
        np.testing.assert_array_equal(np.stack([compiled.one(x) for x in X]), Y)


def test_without_vector_types(tmp_path: Path) -> None:
    """A compiler that has none takes the same code with one lane."""
    network = described()
    source = c_source(network, "model").replace("__GNUC__", "NO_SUCH_COMPILER")
    (tmp_path / "model.c").write_text(source, encoding="utf-8")
    build(tmp_path, compiler("gcc"), *C_WARNINGS, "-DSELFTEST", "-o", "selftest", "model.c", "-lm")
    assert run(tmp_path, "./selftest").returncode == 0


def test_a_wrong_weight_fails_the_selftest(tmp_path: Path) -> None:
    """The planted fault: one weight is another number."""
    network = described((2, 1), output="identity")
    source = c_source(network, "model")
    before, after = source.split("W1[] = {\n    ")
    wrong = f"{before}W1[] = {{\n    0x1p-3f,{after.split(',', 1)[1]}"
    (tmp_path / "model.c").write_text(wrong, encoding="utf-8")
    build(tmp_path, compiler("gcc"), *C_WARNINGS, "-DSELFTEST", "-o", "selftest", "model.c", "-lm")
    outcome = run(tmp_path, "./selftest")
    assert outcome.returncode == 1
    assert outcome.stdout.endswith("FAILED\n")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_input_that_is_not_finite_is_not_hidden(output: str, bad: float, tmp_path: Path) -> None:
    """NaN comes out: through ReLU too, and through functions that are finite at infinity."""
    for activation in ("relu", "tanh"):
        network = described(activation=activation, output=output)
        compiled = Compiled(network, tmp_path / activation, "c", "gcc", "-O3", "-march=native")
        X = np.ones((9, 7))
        X[4, 2] = bad
        assert np.isnan(compiled.one(X[4])).all()
        Y = compiled.many(X)
        assert np.isnan(Y[4]).all()
        assert np.isfinite(np.delete(Y, 4, axis=0)).all()


def test_large_offsets_are_subtracted_in_double(tmp_path: Path) -> None:
    """Time stamps around 10⁹ that differ by seconds: float32 would not tell one from the next 64."""
    network = described(mean=np.full(7, 1.7e9), scale=np.full(7, 3.0), output="identity")
    compiled = Compiled(network, tmp_path, "c", "gcc", "-O2")
    X = 1.7e9 + np.random.default_rng(1).integers(-9, 9, (20, 7)).astype(np.float64)
    assert difference(network, compiled.many(X), answers(network, X)) <= network.tolerance


def test_names_are_the_datas(tmp_path: Path) -> None:
    """Whatever is in them, they arrive byte by byte, and the label is the first of the largest."""
    network = described()
    Compiled(network, tmp_path, "c", "gcc", "-O1")
    library = ctypes.CDLL(str(tmp_path / "model.so"))
    for what, names in (("feature", network.feature_names), ("output", network.output_names)):
        assert names is not None
        array = (ctypes.c_char_p * len(names)).in_dll(library, f"model_{what}_names")
        assert tuple(item.decode() for item in array if item) == names
    library.model_label.restype = ctypes.c_size_t
    for y, label in (([0.2, 0.5, 0.3], 1), ([0.4, 0.2, 0.4], 0), ([0.1, 0.1, 0.8], 2)):
        assert library.model_label((ctypes.c_double * 3)(*y)) == label


def test_two_networks_in_one_program(tmp_path: Path) -> None:
    """From C and from C++, by their headers; each keeps its own name, and nothing else is visible."""
    for stem, n in (("density", 3), ("speed", 5)):
        network = described((n, 4, 2), output="identity", seed=n)
        (tmp_path / f"{stem}.c").write_text(c_source(network, stem), encoding="utf-8")
        (tmp_path / f"{stem}.h").write_text(c_header(network, stem), encoding="utf-8")
        build(tmp_path, compiler("gcc"), *C_WARNINGS, "-c", f"{stem}.c")
        symbols = run(tmp_path, "nm", "-g", "--defined-only", f"{stem}.o").stdout.split()[2::3]
        assert all(symbol.startswith(f"{stem}_") for symbol in symbols), symbols
    program = (
        '#include "density.h"\n#include "speed.h"\n'
        "int main(void) {\n  double a[DENSITY_FEATURES] = {1, 2, 3}, b[SPEED_FEATURES] = {1}, y[DENSITY_OUTPUTS];\n"
        "  density_predict_one(a, y);\n  speed_predict_many(1, b, y);\n  return 0;\n}\n"
    )
    for name, cc in (("main.c", "gcc"), ("main.cpp", "g++")):
        (tmp_path / name).write_text(program)
        build(tmp_path, compiler(cc), *C_WARNINGS, "-o", "both", name, "density.o", "speed.o", "-lm")
        assert run(tmp_path, "./both").returncode == 0


def test_large_networks_read_their_weights_from_a_file(tmp_path: Path) -> None:
    """Once, and no file but the right one: the outputs are NaN until then. sha256sum prints the hash."""
    network = described((300, 700, 3))
    X, Y = network.examples or (np.empty(0), np.empty(0))
    compiled = Compiled(network, tmp_path, "c", "gcc", "-O2")
    assert np.isnan(compiled.many(X)).all()
    assert np.isnan(compiled.one(X[0])).all()
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
    assert run(tmp_path, "sha256sum", "model.bin").stdout.split()[0] == in_panels(network).sha256()
    head = (tmp_path / "model.c").read_text().partition("*/")[0]
    assert "The weights are in model.bin: a program calls model_load once, before it predicts." in head
    assert "no state that changes" not in head


def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    """No byte is read before it is written, or beside its array; nothing is left on the heap."""
    network = described((20, 40, 5), "softplus")
    (tmp_path / "model.c").write_text(c_source(network, "model"), encoding="utf-8")
    build(tmp_path, compiler("gcc"), *C_WARNINGS, "-g", "-O1", "-DSELFTEST", "-o", "selftest", "model.c", "-lm")
    options = ("--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all")
    outcome = run(tmp_path, compiler("valgrind"), *options, "./selftest")
    assert (outcome.returncode, outcome.stderr) == (0, "")
