
/* log(1 + x), for x from 0 to 1. */
static double exact_log1p(double x)
{
    static const double c[] = {@LOG@};
    const double total = 1 + x, part = total - 1, error = (1 - (total - part)) + (x - part);
    int k;
    double m = frexp(total, &k);
    if (isnan(x) || x == 0) {
        return x;
    }
    if (m < @SQRT_HALF@) {
        m = 2 * m;
        k--;
    }
    const double f = k == 0 ? x : m - 1, more = k == 0 ? 0 : error / total;
    const double s = f / (2 + f), square = product(s, s), half = product(0.5 * f, f);
    const double rest = half - product(s, half + product(square, polynomial(sizeof c / sizeof *c, c, square)));
    const double whole = product(k, @LN2_HIGH@), high = whole + f;
    return high + ((((whole - high) + f) - rest) + (product(k, @LN2_LOW@) + more));
}
