
static double exact_erf(double x)
{
    static const double small[] = {@ERF@}, middle[] = {@ERF_NEAR_ONE@}, large[] = {@ERFC@};
    const double size = fabs(x);
    double result, high, low;
    if (isnan(x)) {
        return x;
    }
    if (size <= 0.84) {
        result = size + product(size, polynomial(sizeof small / sizeof *small, small, product(size, size)));
    } else if (size <= 1.35) {
        result = @ERF_BASE@ + polynomial(sizeof middle / sizeof *middle, middle, size - @ERF_MIDDLE@);
    } else {
        const double near = fmin(size, 6);
        const int k = exp_in_two(-product(near, near), &high, &low);
        const double tail = polynomial(sizeof large / sizeof *large, large, 1 / (2 + near) - @ERFC_MIDDLE@);
        result = 1 - ldexp(product(high, tail), k);
    }
    return copysign(result, x);
}
