
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16)
#error "the bits of this network need the arithmetic of IEEE 754: no -ffast-math nor parts of it, and no x87 registers"
#endif

/* A number rounded to the type of the parameters, whatever a compiler thinks of that. */
static double narrowed(double v)
{
    volatile float narrow = (float)v;
    return (double)narrow;
}

/* Round each row of a (n, rows) to whole multiples of a unit of its own: to the bits with which its products are exact. */
static void settle(size_t n, size_t rows, double *a, int bits)
{
    double largest[ROWS] = {0}, magic[ROWS];
    for (size_t i = 0; i < n; i++) {
        for (size_t r = 0; r < rows; r++) {
            const double size = fabs(a[i * rows + r]);
            largest[r] = size > largest[r] || isnan(size) ? size : largest[r];
        }
    }
    for (size_t r = 0; r < rows; r++) {
        int e;
        (void)frexp(largest[r], &e);
        e = largest[r] == 0 || e < bits - @UNIT_LIMIT@ ? bits - @UNIT_LIMIT@ : e;
        magic[r] = largest[r] < @HUGE@ ? ldexp(@ROUNDING@, e - bits) : (double)NAN;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t r = 0; r < rows; r++) {
            a[i * rows + r] = (a[i * rows + r] + magic[r]) - magic[r];
        }
    }
}
