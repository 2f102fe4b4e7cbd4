"""The exact sum: in which order gradients are added, so that its bits do not depend on the number of ranks.

From a rank's examples to the sum over all: `tree` says in which order, `proven` which products may change shape,
`within` adds up one rank's shards, `plan` says who does what between ranks, and `between` does it.

Words, as this room uses them:
    shard       one of the K fixed, contiguous pieces of every batch
    subtree     a node of the tree over the shards, named by the shards [lo, hi) that it sums
    turn        one step of forming a sum: a subtree that is formed as a whole, and the additions that follow it
    partial     the sum over one complete subtree: what one rank, or one node, can add up on its own
    node        the ranks that share memory
    column      the ranks with one and the same local rank, one on each node
    slice       the part of the flat parameter vector whose update one rank does
    quantum     QUANTUM elements: slices begin and end on multiples of it
    block       a part of a slice, or of the columns of dW, that stays in cache
    tally       the figures of a shard's loss that travel with every step; a rank's signal travels with them
    shortcut    a product in another shape than the shards' own, seen to give the same bits
"""
