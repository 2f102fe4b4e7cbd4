
/* A product that no compiler makes part of another operation: what follows it is rounded by itself. */
static double product(double a, double b)
{
    volatile double p = a * b;
    return p;
}
