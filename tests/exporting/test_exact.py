"""Portable arithmetic in C and Fortran: the bits of this program's own, whatever the compiler does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddp_mlp.exporting import exact
from ddp_mlp.exporting.c_code import c_source
from ddp_mlp.exporting.description import describe_network
from ddp_mlp.exporting.fortran_code import fortran_selftest, fortran_source
from ddp_mlp.inference.network import Network
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.targets import Targets
from tests.exported import Compiled, answers, build, compiler, described, difference, run

BUILDS = [
    ("c", "gcc", "-O0"),
    ("c", "gcc", "-O2"),
    ("c", "gcc", "-O3", "-march=native", "-ffp-contract=fast"),
    ("c", "gcc", "-O3", "-march=native", "-ffp-contract=off"),
    ("c", "clang", "-O0"),
    ("c", "clang", "-O2", "-ffp-contract=on"),
    ("c", "clang", "-O3", "-march=native", "-ffp-contract=fast"),
    ("f90", "gfortran", "-O0"),
    ("f90", "gfortran", "-O2"),
    ("f90", "gfortran", "-O3", "-march=native", "-ffp-contract=fast"),
]
PAIRS = [
    ("relu", "softmax"),
    ("leaky_relu", "sigmoid"),
    ("elu", "identity"),
    ("tanh", "exp"),
    ("sigmoid", "softplus"),
    ("softplus", "relu"),
    ("gelu", "softmax"),
    ("silu", "identity"),
    ("identity", "identity"),
]


def trained(activation: str, output: str, standardized: bool = True) -> Network:
    """Return a network of portable arithmetic with random parameters, and outputs in units of their own."""
    network = described((7, 40, 33, 5), activation, output)
    names = ("a", "b", "c", "d", "e")
    losses = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy", "exp": "poisson"}
    loss = losses.get(output, "squared_error")
    mean, scale = (0.7 if output == "identity" else 0.0, 2.3) if loss == "squared_error" else (0.0, 1.0)
    targets = Targets(loss, names=names, mean=(mean,) * 5, scale=(scale,) * 5)
    if output == "softmax":
        targets = Targets(classes=names)
    assert network.mean is not None
    assert network.scale is not None
    maps = {"mean": network.mean, "scale": network.scale} if standardized else None
    constraint = output if output in ("softplus", "relu") else "identity"
    return Network(network.parameters, targets.classes, maps, targets, activation, constraint, PORTABLE)


@pytest.mark.parametrize("how", BUILDS, ids=" ".join)
@pytest.mark.parametrize(("activation", "output"), PAIRS)
def test_the_bits_are_this_programs(activation: str, output: str, how: tuple[str, ...], tmp_path: Path) -> None:
    """With every compiler, optimized or not, contracted or not; one by one and together."""
    network = trained(activation, output)
    exported = describe_network(network)
    assert exported.exact
    X = np.random.default_rng(1).normal(size=(50, 7)) * 30
    expected = network.predictions(X)
    assert difference(exported, expected, answers(exported, X)) <= 5e-6  # of 21 bits and more
    language, cc, *flags = how
    compiled = Compiled(exported, tmp_path, language, cc, *flags)
    np.testing.assert_array_equal(compiled.many(X), expected)
    np.testing.assert_array_equal(np.stack([compiled.one(x) for x in X]), expected)


@pytest.mark.parametrize("how", [BUILDS[2], BUILDS[-1]], ids=" ".join)
def test_lines_of_any_size(how: tuple[str, ...], tmp_path: Path) -> None:
    """Rows of zeros, of very large and very small numbers, and with NaN and infinity."""
    network = trained("relu", "identity", standardized=False)
    X = (
        np.random.default_rng(1).normal(size=(9, 7))
        * np.array([0, 1e-300, 1e-130, 1e-20, 1, 1e9, 1e100, 1e130, 1e300])[:, None]
    )
    X[4, 1:] *= 1e-12
    with np.errstate(all="ignore"):
        expected = network.predictions(X)
    compiled = Compiled(describe_network(network), tmp_path, how[0], how[1], *how[2:])
    np.testing.assert_array_equal(compiled.many(X), expected)
    assert np.isfinite(expected[:6]).all()
    for bad in (np.nan, np.inf, -np.inf):
        X[3, 2] = bad
        assert np.isnan(compiled.many(X)[3]).all()
        assert np.isnan(compiled.one(X[3])).all()
        np.testing.assert_array_equal(compiled.many(X)[:3], expected[:3])


@pytest.mark.parametrize("flag", ["-ffast-math", "-funsafe-math-optimizations"])
@pytest.mark.parametrize(("activation", "output"), [("relu", "identity"), ("tanh", "softmax")])
def test_fast_math_is_refused(activation: str, output: str, flag: str, tmp_path: Path) -> None:
    """It would change the bits, and no longer see NaN; also of a network that needs no function but its products."""
    network = described(activation=activation, output=output, exact=True, target_mean=None, target_scale=None)
    (tmp_path / "model.c").write_text(c_source(network, "model"), encoding="utf-8")
    build(tmp_path, compiler("gcc"), "-c", "-O2", "model.c")
    outcome = run(tmp_path, compiler("gcc"), "-c", "-O2", flag, "model.c")
    assert outcome.returncode != 0
    assert "-ffast-math" in outcome.stderr


@pytest.mark.parametrize(("language", "cc"), [("c", "gcc"), ("f90", "gfortran")])
def test_the_selftest_wants_the_bits(language: str, cc: str, tmp_path: Path) -> None:
    """The planted fault: one answer is the next number of float64 to predict's."""
    exported = describe_network(trained("tanh", "identity"))
    assert exported.examples is not None
    X, Y = exported.examples
    off = Y.copy()
    off[1, 1] = np.nextafter(off[1, 1], np.inf)
    for answers_stored, code in ((Y, 0), (off, 1)):
        network = replace(exported, examples=(X, answers_stored))
        if language == "c":
            (tmp_path / "model.c").write_text(c_source(network, "model"), encoding="utf-8")
            build(tmp_path, compiler(cc), "-DSELFTEST", "-o", "selftest", "model.c", "-lm")
        else:
            (tmp_path / "model.f90").write_text(fortran_source(network, "model"), encoding="utf-8")
            (tmp_path / "model_selftest.f90").write_text(fortran_selftest(network, "model"), encoding="utf-8")
            build(tmp_path, compiler(cc), "-o", "selftest", "model.f90", "model_selftest.f90")
        assert run(tmp_path, "./selftest").returncode == code


def test_weights_are_rounded_as_their_products_take_them() -> None:
    """Whole multiples of one power of two per row, at most 2²⁴ of them."""
    network = described((7, 40, 5))
    layers, bits = exact.rounded(network.layers)
    assert len(bits) == 2
    for (W, _), (rounded, _) in zip(network.layers, layers, strict=True):
        _, e = np.frexp(np.abs(rounded).max(axis=1, keepdims=True))
        whole = np.ldexp(rounded, 24 - e)
        np.testing.assert_array_equal(whole, np.rint(whole))
        assert np.abs(rounded - W).max() <= 2.0**-23 * np.abs(W).max()


def test_only_what_is_needed_is_written() -> None:
    """A compiler would warn of the rest."""
    assert exact.pieces(["relu", "identity"]) == []
    assert exact.pieces(["relu", "identity"], ["product"]) == ["product"]
    assert exact.pieces(["relu", "softmax"]) == ["product", "polynomial", "exp_in_two", "exp"]
    assert exact.pieces(["tanh", "tanh"]) == ["product", "polynomial", "exp_in_two", "tanh"]
