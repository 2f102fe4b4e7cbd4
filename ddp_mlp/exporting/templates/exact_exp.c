
static double exact_exp(double x)
{
    double high, low;
    if (isnan(x)) {
        return x;
    }
    const int k = exp_in_two(fmin(fmax(x, -800), 800), &high, &low);
    return ldexp(high + low, k);
}
