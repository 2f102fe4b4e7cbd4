
#if defined(__FAST_MATH__) || (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16)
#error "the bits of this network need the arithmetic of IEEE 754: no -ffast-math, and no x87 registers"
#endif

/* A product that no compiler makes part of another operation: what follows it is rounded by itself. */
static double product(double a, double b)
{
    volatile double p = a * b;
    return p;
}
