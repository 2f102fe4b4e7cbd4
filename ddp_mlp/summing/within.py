"""The sums dW and db over a group's shards, in tree order: what is small all at once, what is large shard by shard.

Invariants:
- a sum has the bits of its shards' own products, added as `tree.Turn` says;
- memory for products on their way into a sum is allocated once, by shape.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import blas
from ddp_mlp.nn.backprop import bias_gradient, weight_gradient
from ddp_mlp.nn.blas import add_product, can_add_products, prepared_product
from ddp_mlp.nn.buffers import GroupMatrix, Shortcuts, aligned_empty
from ddp_mlp.nn.calls import Calls, do
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.summing.proven import WIDE, column_blocks, prepared_blocks, small_blocks
from ddp_mlp.summing.tree import Turn


class Scratch:
    """Memory for products on their way into a sum, by shape, used again and again."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[int, ...], NDArray[Any]] = {}

    def like(self, out: NDArray[Any], count: int) -> NDArray[Any]:
        """Return `count` arrays of out's shape (n, n_prev) and dtype, each in Fortran order: (count, n, n_prev)."""
        n, n_prev = out.shape
        if out.shape not in self.arrays or len(self.arrays[out.shape]) < count:
            memory = aligned_empty(count * out.size, out.dtype)
            self.arrays[out.shape] = memory.reshape(count, n_prev, n).mT
        return self.arrays[out.shape][:count]


class GradientSum:
    """A flat gradient (length,), of which dW and db are views; sums over examples are added up in it. Local."""

    def __init__(self, layout: Layout, flat: NDArray[Any], scratch: Scratch) -> None:
        self.flat = flat
        self.dW, self.db = layout.views(flat)
        self._scratch = scratch
        self._calls: dict[Any, tuple[Calls, tuple[Any, ...]]] = {}
        """Of every layer and group: the calls that add up dW, and the arrays that these read and write by address."""

    def add_up(self, l: int, dz: GroupMatrix, A_prev: GroupMatrix, turns: Sequence[Turn], shortcuts: Shortcuts) -> None:
        """Set dW[l] = Σ dz A_prevᵀ and db[l] = Σ dz: sums over the examples of each shard, added in tree order.

        The turns are the shards'; the shortcuts are those of layer l in their group.
        """
        dW, db = self.dW[l], self.db[l]
        if len(turns) == 1:
            blas.multiply(dz.whole, A_prev.examples, dW)
            bias_gradient(dz.whole, db)
            return
        n, n_prev = dW.shape
        if dW.size < WIDE:
            self._add_all(weight_gradient, zip(dz.stacks, A_prev.stacks, strict=True), turns, dW)
        elif shortcuts.dW_prepared:
            do(self._prepared(l, dz, A_prev, tuple(turns)))
        elif shortcuts.dW_together:
            blocks = small_blocks(n, n_prev, dW.itemsize, len(turns))
            room = self._scratch.like(dW[:, blocks[0]], len(turns))
            for block in blocks:
                A_blocks = (A_k[:, block] for A_k in A_prev.stacks)
                self._add_all(weight_gradient, zip(dz.stacks, A_blocks, strict=True), turns, dW[:, block], room)
        else:
            added = shortcuts.dW_added and can_add_products(dW.dtype)
            for block in column_blocks(n, n_prev, dW.itemsize) if shortcuts.dW_in_blocks else [slice(0, n_prev)]:
                A_block = [A_i[block] for A_i in A_prev.shards]
                self._add_one_by_one(dz.shards, A_block, turns, dW[:, block], added)
        self._add_all(bias_gradient, zip(dz.stacks), turns, db)

    def _prepared(self, l: int, dz: GroupMatrix, A_prev: GroupMatrix, turns: tuple[Turn, ...]) -> Calls:
        """Return the calls that set dW[l] block by block, a shard's product being added as it is formed."""
        key = l, id(dz), id(A_prev), turns
        if key not in self._calls:
            dW = self.dW[l]
            n, n_prev = dW.shape
            blocks = prepared_blocks(n, n_prev, dW.itemsize)
            room = self._scratch.like(dW[:, blocks[0]], max(turn.height for turn in turns))
            calls: Calls = []
            for block in blocks:
                out = dW[:, block]
                sums = [out, *room[..., : out.shape[1]]]
                for turn, dz_i, A_i in zip(turns, dz.shards, A_prev.shards, strict=True):
                    added = turn.folds > 0  # the product and the first fold in one
                    height, folds = turn.height - added, turn.folds - added
                    calls.append(prepared_product(dz_i, A_i[block], sums[height], added))
                    for top in range(height, height - folds, -1):
                        calls.append((np.add, (sums[top - 1], sums[top], sums[top - 1])))
            self._calls[key] = calls, (dz, A_prev, dW, room)
        return self._calls[key][0]

    def _add_all(
        self,
        product: Callable[..., None],
        stacks: Iterable[tuple[NDArray[Any], ...]],
        turns: Sequence[Turn],
        out: NDArray[Any],
        room: NDArray[Any] | None = None,
    ) -> None:
        """Form the products of all shards, stack by stack, in the room or in the scratch, and then their sum."""
        products = self._scratch.like(out, len(turns)) if room is None else room[..., : out.shape[1]]
        first = 0
        for factors in stacks:
            k = len(factors[0])
            product(*factors, products[first : first + k])
            first += k
        sums: dict[int, NDArray[Any]] = {}
        for turn, of_shard in zip(turns[:-1], products, strict=False):
            sums[turn.height] = of_shard
            fold(sums, turn.height, turn.folds)
        last = turns[-1]  # of several: it is added to what waits below, and that to what waits below that, to the end
        sums[last.height] = products[len(turns) - 1]
        fold(sums, last.height, last.folds - 1)
        np.add(sums[0], sums[1], out=out)

    def _add_one_by_one(
        self, dz: list[NDArray[Any]], A: list[NDArray[Any]], turns: Sequence[Turn], out: NDArray[Any], added: bool
    ) -> None:
        """Form one shard's product after the other, and add each as soon as the tree allows: the least memory."""
        sums = dict(enumerate([out, *self._scratch.like(out, max(turn.height for turn in turns))]))
        for turn, dz_i, A_i in zip(turns, dz, A, strict=True):
            height, folds = turn.height, turn.folds
            if added and folds:  # the product and the first fold in one
                height, folds = height - 1, folds - 1
            elif added:
                sums[height][...] = -0.0  # −0 + x is x, whatever its sign
            (add_product if added else weight_gradient)(dz_i, A_i, sums[height])
            fold(sums, height, folds)


def fold(sums: Mapping[int, NDArray[Any]], height: int, folds: int) -> None:
    """Add the sum at a height to the one below it, that to the one below, and so on, as `tree.Turn` says."""
    for top in range(height, height - folds, -1):
        np.add(sums[top - 1], sums[top], out=sums[top - 1])
