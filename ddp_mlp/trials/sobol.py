"""Points that fill a cube evenly from the first on: Sobol's sequence, scrambled, with bits that no library decides.

- The direction numbers are those of Joe and Kuo, "Constructing Sobol sequences with better two-dimensional
  projections", SIAM J. Sci. Comput. 30(5), 2008: the first 64 dimensions of their new-joe-kuo-6.21201.
- The scrambling is Matousek's, "On the L2-discrepancy for anchored boxes", J. Complexity 14(4), 1998: a random lower
  triangular matrix of bits and a random shift for each dimension. Of the first 2**k points, each of the 2**k equal
  intervals of a dimension holds exactly one, scrambled or not.
- Random bits are Philox's own words, which NumPy promises to keep. All else is arithmetic of whole numbers.
"""

from functools import cache

from ddp_mlp.nn.randomness import Purpose, words

BITS = 32
"""Binary digits of a coordinate; the sequence has 2**BITS points."""
TABLE = (
    # primitive polynomial over GF(2), its digits as those of a number; the odd numbers m_1, m_2, …
    (3, (1,)),
    (7, (1, 3)),
    (11, (1, 3, 1)),
    (13, (1, 1, 1)),
    (19, (1, 1, 3, 3)),
    (25, (1, 3, 5, 13)),
    (37, (1, 1, 5, 5, 17)),
    (41, (1, 1, 5, 5, 5)),
    (47, (1, 1, 7, 11, 19)),
    (55, (1, 1, 5, 1, 1)),
    (59, (1, 1, 1, 3, 11)),
    (61, (1, 3, 5, 5, 31)),
    (67, (1, 3, 3, 9, 7, 49)),
    (91, (1, 1, 1, 15, 21, 21)),
    (97, (1, 3, 1, 13, 27, 49)),
    (103, (1, 1, 1, 15, 7, 5)),
    (109, (1, 3, 1, 15, 13, 25)),
    (115, (1, 1, 5, 5, 19, 61)),
    (131, (1, 3, 7, 11, 23, 15, 103)),
    (137, (1, 3, 7, 13, 13, 15, 69)),
    (143, (1, 1, 3, 13, 7, 35, 63)),
    (145, (1, 3, 5, 9, 1, 25, 53)),
    (157, (1, 3, 1, 13, 9, 35, 107)),
    (167, (1, 3, 1, 5, 27, 61, 31)),
    (171, (1, 1, 5, 11, 19, 41, 61)),
    (185, (1, 3, 5, 3, 3, 13, 69)),
    (191, (1, 1, 7, 13, 1, 19, 1)),
    (193, (1, 3, 7, 5, 13, 19, 59)),
    (203, (1, 1, 3, 9, 25, 29, 41)),
    (211, (1, 3, 5, 13, 23, 1, 55)),
    (213, (1, 3, 7, 3, 13, 59, 17)),
    (229, (1, 3, 1, 3, 5, 53, 69)),
    (239, (1, 1, 5, 5, 23, 33, 13)),
    (241, (1, 1, 7, 7, 1, 61, 123)),
    (247, (1, 1, 7, 9, 13, 61, 49)),
    (253, (1, 3, 3, 5, 3, 55, 33)),
    (285, (1, 3, 1, 15, 31, 13, 49, 245)),
    (299, (1, 3, 5, 15, 31, 59, 63, 97)),
    (301, (1, 3, 1, 11, 11, 11, 77, 249)),
    (333, (1, 3, 1, 11, 27, 43, 71, 9)),
    (351, (1, 1, 7, 15, 21, 11, 81, 45)),
    (355, (1, 3, 7, 3, 25, 31, 65, 79)),
    (357, (1, 3, 1, 1, 19, 11, 3, 205)),
    (361, (1, 1, 5, 9, 19, 21, 29, 157)),
    (369, (1, 3, 7, 11, 1, 33, 89, 185)),
    (391, (1, 3, 3, 3, 15, 9, 79, 71)),
    (397, (1, 3, 7, 11, 15, 39, 119, 27)),
    (425, (1, 1, 3, 1, 11, 31, 97, 225)),
    (451, (1, 1, 1, 3, 23, 43, 57, 177)),
    (463, (1, 3, 7, 7, 17, 17, 37, 71)),
    (487, (1, 3, 1, 5, 27, 63, 123, 213)),
    (501, (1, 1, 3, 5, 11, 43, 53, 133)),
    (529, (1, 3, 5, 5, 29, 17, 47, 173, 479)),
    (539, (1, 3, 3, 11, 3, 1, 109, 9, 69)),
    (545, (1, 1, 1, 5, 17, 39, 23, 5, 343)),
    (557, (1, 3, 1, 5, 25, 15, 31, 103, 499)),
    (563, (1, 1, 1, 11, 11, 17, 63, 105, 183)),
    (601, (1, 1, 5, 11, 9, 29, 97, 231, 363)),
    (607, (1, 1, 5, 15, 19, 45, 41, 7, 383)),
    (617, (1, 3, 7, 7, 31, 19, 83, 137, 221)),
    (623, (1, 1, 1, 3, 23, 15, 111, 223, 83)),
    (631, (1, 1, 5, 13, 31, 15, 55, 25, 161)),
    (637, (1, 1, 3, 13, 25, 47, 39, 87, 257)),
)
DIMENSIONS = 1 + len(TABLE)
"""How many coordinates a point can have; the first is van der Corput's."""


@cache
def directions(dimension: int) -> tuple[int, ...]:
    """Return the direction numbers v_1, …, v_BITS of a dimension, counted from 0, as whole numbers of 2**-BITS."""
    if dimension == 0:
        return tuple(1 << (BITS - i) for i in range(1, BITS + 1))
    polynomial, first = TABLE[dimension - 1]
    s = len(first)  # the polynomial's degree
    m = list(first)
    for i in range(s, BITS):  # m_i = m_{i-s} ^ 2^s m_{i-s} ^ XOR of 2^k a_k m_{i-k}: their equation (2)
        value = m[i - s] ^ (m[i - s] << s)
        for k in range(1, s):
            if polynomial >> (s - k) & 1:
                value ^= m[i - k] << k
        m.append(value)
    return tuple(value << (BITS - i) for i, value in enumerate(m, start=1))


def point(number: int, dimension: int) -> int:
    """Return a coordinate of the plain sequence's point `number` (from 0, in Gray code order), in [0, 2**BITS)."""
    gray, value = number ^ (number >> 1), 0
    for i, direction in enumerate(directions(dimension)):
        if gray >> i & 1:
            value ^= direction
    return value


@cache
def _scrambling(seed: int, dimension: int) -> tuple[tuple[int, ...], int]:
    """Return the matrix's rows, each the digits that make up one digit of the result, and the shift."""
    *random, shift = words(seed, Purpose.SAMPLING, dimension, count=BITS + 1).tolist()
    rows = []
    for digit in range(BITS):  # from the highest: itself, and any of the digits above it
        itself = 1 << (BITS - 1 - digit)
        above = ((1 << BITS) - 1) & ~(2 * itself - 1)
        rows.append(itself | (random[digit] & above))
    return tuple(rows), shift & ((1 << BITS) - 1)


def scrambled(seed: int, number: int, dimension: int) -> float:
    """Return a coordinate of the scrambled sequence's point `number`, in (0, 1): a function of these three alone."""
    plain = point(number, dimension)
    rows, value = _scrambling(seed, dimension)
    for digit, row in enumerate(rows):
        if (plain & row).bit_count() & 1:
            value ^= 1 << (BITS - 1 - digit)
    return (2 * value + 1) / (1 << (BITS + 1))  # the middle of its interval: never 0 or 1
