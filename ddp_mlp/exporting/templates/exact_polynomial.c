
static double polynomial(size_t n, const double *c, double x)
{
    double value = product(x, c[n - 1]);
    for (size_t i = n - 2; i > 0; i--) {
        value = product(value + c[i], x);
    }
    return value + c[0];
}
