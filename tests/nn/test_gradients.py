"""Every loss with every activation: against central differences of the loss, the reference, and PyTorch's autograd."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn import backprop, outputs, reference
from ddp_mlp.nn.activations import ACTIVATIONS
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.outputs import Numbers, Output
from ddp_mlp.nn.parameters import Layout

F64 = np.dtype(np.float64)
WIDTHS, M = (5, 7, 6, 3), 11
LOSSES = [*reference.LOSS]
BOTH = list(product(LOSSES, ACTIVATIONS))


def output_of(loss: str, **options: Any) -> Output:
    """Return the output layer of a loss, with the reference's δ and quantile."""
    return outputs.create(loss, n_L=WIDTHS[-1], huber_delta=1.0, quantiles=(0.5,), **options)


class Case(NamedTuple):
    """A network, its parameters and some examples."""

    network: Architecture
    flat: NDArray[Any]
    X: NDArray[Any]
    """(n_0, m)."""
    Y: NDArray[Any]
    """(n_L, m)."""
    w: NDArray[Any] | None


def targets(loss: str, random: np.random.Generator) -> NDArray[np.float64]:
    """Return Y (n_L, m) as a loss takes it."""
    n = WIDTHS[-1]
    if loss == "cross_entropy":
        return np.eye(n)[random.integers(0, n, M)].T
    if loss == "binary_cross_entropy":
        return random.integers(0, 2, (n, M)).astype(np.float64)
    if loss == "poisson":
        return random.poisson(2.0, (n, M)).astype(np.float64)
    return random.standard_normal((n, M)) * 2


def make(loss: str, activation: str, weighted: bool = False, seed: int = 0, **options: Any) -> Case:
    """Return a case without kinks: no residual near 0 or δ, no hidden z near 0."""
    layout = Layout(WIDTHS)
    output = output_of(loss, **options)
    functions = (ACTIVATIONS[activation],) * (len(WIDTHS) - 2)
    network = Architecture(layout, functions, output, targets=0 if output.has_classes else WIDTHS[-1])
    flat = np.zeros(layout.length)
    W, b = layout.views(flat)
    for attempt in range(1000):
        random = np.random.default_rng(1000 * seed + attempt)
        for l in W:
            W[l][...] = random.standard_normal(W[l].shape) * 0.7
            b[l][...] = random.standard_normal(b[l].shape) * 0.5
        X = random.standard_normal((WIDTHS[0], M))
        Y = targets(loss, random)
        A = X
        near = np.inf
        for l in W:
            z = W[l] @ A + b[l]
            A = reference.HIDDEN[activation](z)
            if l < layout.L:
                near = min(near, float(abs(z).min()))
        residual = abs(z - Y)
        near = min(near, float(residual.min()), float(abs(residual - 1).min()))
        if near > 1e-3:
            return Case(network, flat, X, Y, random.random(M) + 0.5 if weighted else None)
    raise AssertionError("no case without kinks")


def fast(case: Case, flat: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Return loss sum and gradient sum (length,), as a training step forms them."""
    network, layout = case.network, case.network.layout
    group = network.group((M,), F64)
    group.A[0].whole[...], group.w = case.X, case.w
    if network.targets:
        group.Y.whole[...] = case.Y
    else:
        group.y[...] = case.Y.argmax(axis=0)
    gradient = np.zeros_like(flat)
    (W, b), (dW, db) = layout.views(flat), layout.views(gradient)
    loss_sum, _ = backprop.gradient_sum(W, b, group, network.output, dW, db)
    return loss_sum, gradient


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the length of the difference over that of what is expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def differences(case: Case) -> NDArray[Any]:
    """Return the gradient sum (length,) by central differences of the loss sum."""
    step, flat = 1e-5, case.flat.copy()
    numeric = np.zeros_like(flat)
    for i in range(len(flat)):
        kept = flat[i]
        flat[i] = kept + step
        above = fast(case, flat)[0]
        flat[i] = kept - step
        numeric[i] = (above - fast(case, flat)[0]) / (2 * step)
        flat[i] = kept
    return numeric


@pytest.mark.parametrize(("loss", "activation"), BOTH)
def test_gradient_is_that_of_central_differences(loss: str, activation: str) -> None:
    """To 1e-7: the error of the differences is step² = 1e-10 times a third derivative, and 1e-16 / step."""
    case = make(loss, activation)
    assert relative(fast(case, case.flat)[1], differences(case)) <= 1e-7


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "activation"), BOTH)
def test_gradient_is_the_reference_s(loss: str, activation: str, weighted: bool) -> None:
    """Loss and gradient, with and without sample weights, to 1e-13."""
    case = make(loss, activation, weighted)
    layout = case.network.layout
    loss_sum, gradient = fast(case, case.flat)
    w = np.ones(M) if case.w is None else case.w
    mean, dW, db = reference.loss_and_gradient(*layout.views(case.flat), case.X, case.Y, w, loss, activation)
    expected = np.zeros_like(gradient)
    into = layout.views(expected)
    for l in dW:
        into[0][l][...], into[1][l][...] = dW[l], db[l]
    assert loss_sum == pytest.approx(mean * w.sum(), rel=1e-13)
    assert relative(gradient, expected * w.sum()) <= 1e-13


TORCH_ACTIVATIONS = {"identity": "Identity", "relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "tanh": "Tanh"}
TORCH_ACTIVATIONS |= {"sigmoid": "Sigmoid", "softplus": "Softplus", "gelu": "GELU", "silu": "SiLU"}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "activation"), BOTH)
def test_gradient_is_pytorch_s(loss: str, activation: str, weighted: bool) -> None:
    """PyTorch's modules and losses, differentiated by autograd, to 1e-12."""
    torch = pytest.importorskip("torch")
    case = make(loss, activation, weighted, seed=1)
    layout = case.network.layout
    parameters = {name: torch.tensor(a.copy(), requires_grad=True) for name, a in layout.arrays(case.flat).items()}
    hidden = getattr(torch.nn, TORCH_ACTIVATIONS[activation])()
    A, Y = torch.tensor(case.X.T.copy()), torch.tensor(case.Y.T.copy())
    for l in range(1, layout.L + 1):
        A = torch.nn.functional.linear(A, parameters[f"W{l}"], parameters[f"b{l}"])
        A = hidden(A) if l < layout.L else A
    functional = torch.nn.functional
    each = {
        "cross_entropy": lambda: functional.cross_entropy(A, Y.argmax(1), reduction="none"),
        "binary_cross_entropy": lambda: functional.binary_cross_entropy_with_logits(A, Y, reduction="none").sum(1),
        "squared_error": lambda: functional.mse_loss(A, Y, reduction="none").sum(1) / 2,
        "poisson": lambda: functional.poisson_nll_loss(A, Y, reduction="none").sum(1),
        "huber": lambda: functional.huber_loss(A, Y, reduction="none").sum(1),
        "absolute_error": lambda: functional.l1_loss(A, Y, reduction="none").sum(1),
        "quantile": lambda: functional.l1_loss(A, Y, reduction="none").sum(1) / 2,
    }[loss]()
    total = (each * torch.tensor(np.ones(M) if case.w is None else case.w)).sum()
    total.backward()
    loss_sum, gradient = fast(case, case.flat)
    assert loss_sum == pytest.approx(total.item(), rel=1e-12)
    for name, found in layout.arrays(gradient).items():
        assert relative(found, parameters[name].grad.numpy()) <= 1e-12, name


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_float32_are_those_of_float64(activation: str) -> None:
    """A and slope, formed in place and in blocks, within rounding of the reference's, 300 × 299 numbers up to ± 15."""
    z = np.random.default_rng(2).standard_normal((300, 299)) * 4
    network = Architecture(Layout((1, 300, 2)), (ACTIVATIONS[activation],))
    found = []
    for kind in (np.float32, F64):
        group = network.group((299,), np.dtype(kind))
        group.A[1].whole[...], slope = z, group.slope.get(1)
        b = np.zeros((300, 1), kind)
        group.activations[1].forward(group.A[1].whole, b, slope and slope.whole, group.space[1])
        found.append([matrix.whole.copy() for matrix in (group.A[1], slope) if matrix is not None])
    np.testing.assert_allclose(found[1][0], reference.HIDDEN[activation](z), rtol=1e-13, atol=1e-15)
    for single, double in zip(*found, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("levels", [(0.1,), (0.05, 0.5, 0.9)])
def test_quantiles_are_outputs_of_their_own(levels: tuple[float, ...]) -> None:
    """Output t·Q + j is target t at level j; loss and dz are those of the pinball function, 0 at a tie."""
    output = outputs.create("quantile", n_L=2 * len(levels), quantiles=levels)
    group = Architecture(Layout((1, 2 * len(levels))), (), output, targets=2).group((3,), F64)
    random = np.random.default_rng(0)
    z, Y = random.standard_normal((2 * len(levels), 3)), random.standard_normal((2, 3))
    z[1 if len(levels) > 1 else 0, 0] = Y[0, 0]
    group.A[1].whole[...], group.Y.whole[...] = z, Y
    [(loss_sum, _)] = output.gradient(group)
    expected = 0.0
    for k in range(2 * len(levels)):
        q = levels[k % len(levels)]
        for i in range(3):
            u = Y[k // len(levels), i] - z[k, i]
            expected += q * u if u > 0 else (q - 1) * u
            assert group.dz[1].whole[k, i] == (0 if u == 0 else (u < 0) - q)
    assert loss_sum == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", ["softplus", "relu"])
@pytest.mark.parametrize("loss", ["squared_error", "huber", "absolute_error"])
def test_a_constrained_output_goes_back_through_its_activation(loss: str, name: str) -> None:
    """One output is constrained, the others are not: dz = ∂loss/∂A ⊙ f_L′(z), against central differences."""
    case = make(loss, "tanh", constrained=("identity", name, "identity"), seed=3)
    assert relative(fast(case, case.flat)[1], differences(case)) <= 1e-7
    group = case.network.group((M,), F64, training=False)
    z = np.random.default_rng(0).standard_normal((3, M))
    group.A[3].whole[...] = z
    out = np.empty((M, 3))
    case.network.output.values(group, out)
    assert out[:, [0, 2]].tolist() == z[[0, 2]].T.tolist()
    np.testing.assert_allclose(out[:, 1], reference.HIDDEN[name](z[1]), rtol=1e-14)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "cross_entropy"])
def test_missing_targets_and_factors(loss: str) -> None:
    """A missing target has neither loss nor dz; the others' are times their output's factor."""
    case = make(loss, "tanh", weighted=True)
    plain = case.network.group((M,), F64)
    z = np.random.default_rng(5).standard_normal((3, M))
    plain.A[3].whole[...], plain.Y.whole[...], plain.w = z, case.Y, case.w
    case.network.output.gradient(plain)
    factor = (2.0, 0.5, 3.0)
    output = output_of(loss, factor=factor)
    assert isinstance(output, Numbers)
    group = case.network.group((M,), F64)
    Y = case.Y.copy()
    Y[0, 3] = Y[2, 3] = Y[1, 0] = np.nan
    group.A[3].whole[...], group.Y.whole[...], group.w = z, Y, case.w
    [(loss_sum, _)] = output.gradient(group)
    observed = ~np.isnan(Y)
    expected = plain.dz[3].whole * np.array(factor)[:, None] * observed
    np.testing.assert_allclose(group.dz[3].whole, expected, rtol=1e-14)
    A = reference.OUTPUT[loss](z)
    each = reference.LOSS[loss](A, case.Y) * np.array(factor)[:, None] * case.w
    assert loss_sum == pytest.approx(each[observed].sum(), rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(64, 64, 64), (1, 1, 1, 1), (2, 1, 1, 9, 9, 1), (300, 299, 299)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hidden_layers_of_a_shard_among_others_have_the_bits_of_a_shard_alone(
    dtype: type, sizes: tuple[int, ...], activation: str
) -> None:
    """A and slope do not depend on what is computed with a shard, nor on where it lies."""
    random, kind = np.random.default_rng(1), np.dtype(dtype)
    network = Architecture(Layout((1, 33, 2)), (ACTIVATIONS[activation],))
    together = network.group(sizes, kind)
    z, b = random.standard_normal((33, together.m)) * 4, random.standard_normal((33, 1)).astype(kind)

    def run(group: Any, columns: slice) -> list[bytes]:
        group.A[1].whole[...] = z[:, columns]
        slope = group.slope.get(1)
        f = group.activations[1]
        f.forward(group.A[1].whole, b, slope and slope.whole, group.space[1])
        matrices = [group.A[1]] if slope is None else [group.A[1], slope]
        return [shard.tobytes() for matrix in matrices for shard in matrix.shards]

    found = run(together, slice(None))
    k = len(sizes)
    for i, (size, place) in enumerate(zip(sizes, together.slices, strict=True)):
        assert run(network.group((size,), kind), place) == found[i::k]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(64, 64, 64), (1, 1, 1, 1), (2, 1, 1, 9, 9, 1), (300, 299, 299)])
@pytest.mark.parametrize("n", [1, 2, 10, 33])
@pytest.mark.parametrize("loss", [*LOSSES, "constrained"])
def test_outputs_of_a_shard_among_others_have_the_bits_of_a_shard_alone(
    dtype: type, sizes: tuple[int, ...], n: int, loss: str
) -> None:
    """Loss, dz and values of shards that are computed together, whatever their sizes, are those of each by itself."""
    random, kind = np.random.default_rng(1), np.dtype(dtype)
    constrained = (("softplus", "relu", "identity") * n)[:n] if loss == "constrained" else ()
    name = "squared_error" if loss == "constrained" else loss
    output = outputs.create(name, n_L=n, quantiles=(0.3,), factor=(0.7,) * n, constrained=constrained)
    network = Architecture(Layout((1, n)), (), output, targets=0 if output.has_classes else n)
    together = network.group(sizes, kind)
    z, Y = random.standard_normal((n, together.m)) * 3, random.poisson(1, (n, together.m)).astype(kind)
    if loss != "cross_entropy":
        Y[0, ::7] = np.nan
    w = random.random(together.m).astype(kind)

    def run(group: Any, columns: slice) -> tuple[Any, list[bytes], bytes]:
        group.A[1].whole[...], group.w = z[:, columns], w[columns]
        if network.targets:
            group.Y.whole[...] = Y[:, columns]
        else:
            group.y[...] = np.arange(together.m)[columns] % n
        values = np.empty((group.m, n), dtype)
        output.values(group, values)
        sums = output.gradient(group)
        return sums, [shard.tobytes() for shard in group.dz[1].shards], values.tobytes()

    sums, dz, values = run(together, slice(None))
    alone = [run(network.group((size,), kind), place) for size, place in zip(sizes, together.slices, strict=True)]
    assert sums == [s for one, _, _ in alone for s in one]
    assert dz == [part for _, one, _ in alone for part in one]
    assert values == b"".join(one for _, _, one in alone)
