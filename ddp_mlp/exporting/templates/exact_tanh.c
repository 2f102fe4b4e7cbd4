
static double exact_tanh(double x)
{
    static const double c[] = {@TANH@};
    const double size = fabs(x);
    double result, high, low;
    if (isnan(x)) {
        return x;
    }
    if (size <= 0.55) {
        const double square = product(size, size);
        result = size + product(product(size, square), polynomial(sizeof c / sizeof *c, c, square));
    } else {
        const int k = exp_in_two(fmin(2 * size, 50), &high, &low);
        const double power = ldexp(high, k), whole = power + 1, error = ((power - whole) + 1) + ldexp(low, k);
        const double fraction = 2 / whole;
        result = 1 - fraction;
        result += ((1 - result) - fraction) + product(fraction, error / whole);
    }
    return copysign(result, x);
}
