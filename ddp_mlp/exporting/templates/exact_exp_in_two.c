
/* Set *high + *low, times 2^k, to e^x; return k. */
static int exp_in_two(double x, double *high, double *low)
{
    static const double c[] = {@EXP@};
    const double k = rint(product(x, @ONE_OVER_LN2@));
    const double near = x - product(k, @LN2_HIGH@), rest = product(k, @LN2_LOW@);
    const double r = near - rest, more = (near - r) - rest;
    const double square = product(r, r), one = 1 + r;
    double tail = product(square, polynomial(sizeof c / sizeof *c, c, r)) + (more + product(r, more));
    tail += (1 - one) + r;
    *high = one + tail;
    *low = (one - *high) + tail;
    return (int)k;
}
