"""Update rules for the flat parameter vector: each a pure pair of `init` (zeroed state) and `update` (one step).

What every update keeps to:

- it works element by element, in place, on 1-D arrays of one dtype and any length. The result for an element depends
  on that element alone, so a vector may be cut into blocks anywhere and the bits stay the same;
- it allocates no array: every product goes to an `out=`. The gradient is used as working memory and is lost;
- scalars are computed in float64 and cast to the arrays' dtype once, so that float32 arrays stay float32;
- the state is a dict of named arrays, all of it: `state` and `step` are what a checkpoint has to hold.

The trajectories are PyTorch's, at its default settings. Its running means v = β v + (1 − β) g² are kept here as decayed
sums s = β s + g², which saves a pass over memory; the constant 1 − β goes into the step's scalars. A decayed sum
divided by the sum of its weights, 1 + β + … + β^(t−1) = (1 − β^t) / (1 − β), is the bias-corrected mean.

In the equations g is the gradient, η the learning rate, t the step counted from 1.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating[Any]]
State: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class Optimizer:
    """An update rule, the names of its state arrays, and the coefficients it takes besides the learning rate.

    `update(theta, gradient, state, step, learning_rate, scratch)` does one step in place:

    - `theta` (n,): the parameters, or any block of them; changed in place;
    - `gradient` (n,): of the loss, same dtype; overwritten;
    - `state`: slot name -> (n,), the same block of the optimizer's state; changed in place;
    - `step`: counted from 1;
    - `learning_rate`: this step's;
    - `scratch` (n,): same dtype, any content; overwritten.

    `default_weight_decay` is what PyTorch's optimizer of this name gives to `decay` when the user says nothing.

    >>> adam = create("adam", beta1=0.8)
    >>> adam.slots
    ('gradient_sum', 'square_sum')
    >>> theta, scratch = np.ones(3, np.float32), np.empty(3, np.float32)
    >>> state = adam.init(3, np.float32)
    >>> adam.update(theta, np.array([4, 0, -4], np.float32), state, 1, 0.5, scratch)
    >>> theta
    array([0.5, 1. , 1.5], dtype=float32)
    """

    name: str
    update: Callable[[Array, Array, State, int, float, Array], None]
    slots: tuple[str, ...] = ()
    coefficients: tuple[str, ...] = ()
    default_weight_decay: float = 0.0

    def init(self, n: int, dtype: npt.DTypeLike) -> State:
        """Return the state before step 1: for each slot zeros (n,)."""
        return {slot: np.zeros(n, dtype) for slot in self.slots}


def create(
    name: str,
    *,
    momentum: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    alpha: float = 0.99,
    power: Callable[[float, int], float] = operator.pow,
) -> Optimizer:
    """Return the optimizer called `name` in OPTIMIZERS with those of the coefficients that it takes; `power` forms β^t.

    Which values make sense is checked where they are configured: coefficients in [0, 1), a positive epsilon.

    >>> create("momentum", momentum=0.5, beta1=0.8).coefficients
    ('momentum',)
    """
    given = {"momentum": momentum, "beta1": beta1, "beta2": beta2, "epsilon": epsilon, "alpha": alpha}
    optimizer = OPTIMIZERS[name]
    chosen: dict[str, Any] = {coefficient: given[coefficient] for coefficient in optimizer.coefficients}
    if optimizer.update is adam:
        chosen["power"] = power
    return replace(optimizer, update=partial(optimizer.update, **chosen))


def sgd(theta: Array, gradient: Array, state: State, step: int, learning_rate: float, scratch: Array) -> None:
    """Descend along the gradient: θ ← θ − η g.

    Arguments as in `Optimizer`; no state. 2 passes.

    >>> theta = np.array([1.0, 2.0])
    >>> sgd(theta, np.array([2.0, -4.0]), {}, 1, 0.25, np.empty(2))
    >>> theta
    array([0.5, 3. ])

    Source: Robbins and Monro, "A stochastic approximation method", Ann. Math. Statist. 22 (1951).
    """
    scalar = theta.dtype.type
    np.multiply(gradient, scalar(learning_rate), out=gradient)  # η g
    np.subtract(theta, gradient, out=theta)


def momentum(
    theta: Array,
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    scratch: Array,
    *,
    momentum: float = 0.9,
) -> None:
    """Descend along the decayed sum of all gradients: v ← μ v + g, θ ← θ − η v.

    Arguments as in `Optimizer`; `momentum` is μ; the slot `velocity` is v. At step 1, v = g. 4 passes.

    >>> theta, state = np.array([1.0]), {"velocity": np.array([2.0])}
    >>> momentum(theta, np.array([1.0]), state, 2, 0.25, np.empty(1), momentum=0.5)
    >>> theta, state["velocity"]
    (array([0.5]), array([2.]))

    Source: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; as torch.optim.SGD
    writes it, with dampening 0.
    """
    scalar = theta.dtype.type
    velocity = state["velocity"]
    np.multiply(velocity, scalar(momentum), out=velocity)
    np.add(velocity, gradient, out=velocity)
    np.multiply(velocity, scalar(learning_rate), out=gradient)  # η v
    np.subtract(theta, gradient, out=theta)


def nesterov(
    theta: Array,
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    scratch: Array,
    *,
    momentum: float = 0.9,
) -> None:
    """Descend as momentum does, one decay ahead: v ← μ v + g, θ ← θ − η (g + μ v).

    Arguments as in `Optimizer`; `momentum` is μ. Only μ v is ever needed, so the slot `decayed_velocity` is u = μ v:
    u ← μ (u + g), θ ← θ − η (g + u). 5 passes.

    >>> theta, state = np.array([1.0]), {"decayed_velocity": np.array([1.0])}
    >>> nesterov(theta, np.array([1.0]), state, 2, 0.25, np.empty(1), momentum=0.5)
    >>> theta, state["decayed_velocity"]
    (array([0.5]), array([1.]))

    Source: Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013; as torch.optim.SGD(nesterov=True) writes it.
    """
    scalar = theta.dtype.type
    decayed_velocity = state["decayed_velocity"]
    np.add(decayed_velocity, gradient, out=decayed_velocity)
    np.multiply(decayed_velocity, scalar(momentum), out=decayed_velocity)
    np.add(gradient, decayed_velocity, out=gradient)
    np.multiply(gradient, scalar(learning_rate), out=gradient)  # η (g + u)
    np.subtract(theta, gradient, out=theta)


def rmsprop(
    theta: Array,
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    scratch: Array,
    *,
    alpha: float = 0.99,
    epsilon: float = 1e-8,
) -> None:
    """Divide the gradient by its running root mean square: v ← α v + (1 − α) g², θ ← θ − η g / (√v + ε).

    Arguments as in `Optimizer`; `alpha` is α, `epsilon` is ε. The slot `square_sum` is s = v / (1 − α): with
    c = √(1 / (1 − α)), s ← α s + g², θ ← θ − η c g / (√s + c ε). No bias correction. 8 passes.

    >>> theta, state = np.array([1.0]), {"square_sum": np.array([0.0])}
    >>> rmsprop(theta, np.array([2.0]), state, 1, 0.5, np.empty(1), alpha=0.75, epsilon=1.0)
    >>> theta, state["square_sum"]
    (array([0.5]), array([4.]))

    Source: Tieleman and Hinton, "Lecture 6.5: rmsprop", Neural Networks for Machine Learning, 2012; ε outside the
    root as in torch.optim.RMSprop.
    """
    scalar = theta.dtype.type
    square_sum = state["square_sum"]
    c = math.sqrt(1 / (1 - alpha))
    np.multiply(gradient, gradient, out=scratch)
    np.multiply(square_sum, scalar(alpha), out=square_sum)
    np.add(square_sum, scratch, out=square_sum)
    np.sqrt(square_sum, out=scratch)
    np.add(scratch, scalar(c * epsilon), out=scratch)
    np.divide(gradient, scratch, out=gradient)
    np.multiply(gradient, scalar(c * learning_rate), out=gradient)
    np.subtract(theta, gradient, out=theta)


def adam(
    theta: Array,
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    scratch: Array,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    power: Callable[[float, int], float] = operator.pow,
) -> None:
    """Divide the gradient's running mean by its running root mean square, both corrected for their start at zero.

        m ← β₁ m + (1 − β₁) g     v ← β₂ v + (1 − β₂) g²     θ ← θ − η (m / (1 − β₁^t)) / (√(v / (1 − β₂^t)) + ε)

    Arguments as in `Optimizer`; `beta1`, `beta2`, `epsilon` are β₁, β₂, ε; `power` forms β^t. The slots `gradient_sum`
    and `square_sum` are r = m / (1 − β₁) and s = v / (1 − β₂). With cᵢ = (1 − βᵢ^t) / (1 − βᵢ), the sums of their
    weights,

        r ← β₁ r + g     s ← β₂ s + g²     θ ← θ − (η √c₂ / c₁) r / (√s + √c₂ ε)

    is the same step. 10 passes. AdamW is this after `decay`.

    >>> theta, state = np.array([1.0, 1.0]), {"gradient_sum": np.zeros(2), "square_sum": np.zeros(2)}
    >>> adam(theta, np.array([3.0, -1.0]), state, 1, 0.5, np.empty(2), epsilon=1.0)
    >>> theta
    array([0.625, 1.25 ])

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.
    """
    scalar = theta.dtype.type
    gradient_sum, square_sum = state["gradient_sum"], state["square_sum"]
    c1 = (1 - power(beta1, step)) / (1 - beta1)
    root_c2 = math.sqrt((1 - power(beta2, step)) / (1 - beta2))
    np.multiply(gradient_sum, scalar(beta1), out=gradient_sum)
    np.add(gradient_sum, gradient, out=gradient_sum)
    np.multiply(gradient, gradient, out=gradient)
    np.multiply(square_sum, scalar(beta2), out=square_sum)
    np.add(square_sum, gradient, out=square_sum)
    np.sqrt(square_sum, out=gradient)
    np.add(gradient, scalar(root_c2 * epsilon), out=gradient)
    np.divide(gradient_sum, gradient, out=gradient)
    np.multiply(gradient, scalar(learning_rate * root_c2 / c1), out=gradient)
    np.subtract(theta, gradient, out=theta)


OPTIMIZERS = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", sgd),
        Optimizer("momentum", momentum, ("velocity",), ("momentum",)),
        Optimizer("nesterov", nesterov, ("decayed_velocity",), ("momentum",)),
        Optimizer("rmsprop", rmsprop, ("square_sum",), ("alpha", "epsilon")),
        Optimizer("adam", adam, ("gradient_sum", "square_sum"), ("beta1", "beta2", "epsilon")),
        Optimizer("adamw", adam, ("gradient_sum", "square_sum"), ("beta1", "beta2", "epsilon"), 0.01),
    )
}


def decay(theta: Array, mask: Array, learning_rate: float, weight_decay: float, scratch: Array) -> None:
    """Shrink the weights by the factor 1 − η λ, before the update and apart from the gradient (decoupled).

    `theta` (n,) changes in place. `mask` (n,), of the same dtype, is 1 for weights and 0 for biases, which keep their
    bits. `weight_decay` is λ; `scratch` (n,) is overwritten. 3 passes.

    >>> theta = np.array([8.0, 8.0])
    >>> decay(theta, np.array([1.0, 0.0]), 0.5, 0.25, np.empty(2))
    >>> theta
    array([7., 8.])

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, with λ multiplied by the
    learning rate as torch.optim.AdamW does.
    """
    scalar = theta.dtype.type
    one, shrinkage = scalar(1), scalar(learning_rate * weight_decay)
    np.multiply(mask, shrinkage, out=scratch)
    np.subtract(one, scratch, out=scratch)  # 1 − η λ where the mask is 1, exactly 1 where it is 0
    np.multiply(theta, scratch, out=theta)


def add_l2(gradient: Array, theta: Array, mask: Array, l2: float, scratch: Array) -> None:
    """Add to the mean gradient that of the loss term (l2 / 2) ‖W‖²: gradient ← gradient + l2 θ, on weights only.

    The half is in the loss, so the gradient has none: torch.optim's `weight_decay` argument outside AdamW. The term is
    not divided by the batch size, unlike scikit-learn's `alpha`. `gradient` (n,) changes in place; `mask` and `scratch`
    as in `decay`. 3 passes.

    >>> gradient = np.array([1.0, 1.0])
    >>> add_l2(gradient, np.array([4.0, 4.0]), np.array([1.0, 0.0]), 0.5, np.empty(2))
    >>> gradient
    array([3., 1.])
    """
    scalar = theta.dtype.type
    np.multiply(theta, scalar(l2), out=scratch)
    np.multiply(scratch, mask, out=scratch)
    np.add(gradient, scratch, out=gradient)


def clip_scale(norm: float, clip_norm: float) -> float:
    """Return the factor for the whole gradient that brings its global norm down to `clip_norm`; 1 if it is below.

    min(1, clip_norm / (norm + 10⁻⁶)), as torch.nn.utils.clip_grad_norm_ has it: a gradient within 10⁻⁶ of the limit
    shrinks a little too. A norm that is NaN gives NaN, so that clipping does not hide it.

    >>> clip_scale(0.5, 1.0)
    1.0
    >>> round(clip_scale(4.0, 1.0), 6)
    0.25

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    scale = clip_norm / (norm + 1e-6)
    return 1.0 if scale > 1 else scale
