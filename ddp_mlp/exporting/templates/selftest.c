
#ifdef SELFTEST
#include <stdio.h>

enum { TESTS = @tests@ };

/* Rows, and what ddp_mlp's predict gives for them. */
static const double test_x[TESTS * @M@_FEATURES] = {
@test_x@
};
static const double test_y[TESTS * @M@_OUTPUTS] = {
@test_y@
};

/* The largest value of each output, or its scale. */
static const double test_size[@M@_OUTPUTS] = {
@test_size@
};

/* Return the largest difference to the stored answers, as a part of the output's size. */
static double difference(const double *y)
{
    double largest = 0;
    for (size_t k = 0; k < TESTS * @M@_OUTPUTS; k++) {
        const double part = fabs(y[k] - test_y[k]) / test_size[k % @M@_OUTPUTS];
        if (isnan(part)) {
            return part;
        }
        largest = fmax(largest, part);
    }
    return largest;
}

int main(@main_arguments@)
{
    static double y[2][TESTS * @M@_OUTPUTS];
    const double allowed = @allowed@;
@main_load@    @P@_predict_many(TESTS, test_x, y[0]);
    for (size_t r = 0; r < TESTS; r++) {
        @P@_predict_one(test_x + r * @M@_FEATURES, y[1] + r * @M@_OUTPUTS);
    }
    const double many = difference(y[0]), one = difference(y[1]);
    const int passed = many <= allowed && one <= allowed;
    printf("@P@: %d rows, largest difference %.2g (many), %.2g (one), allowed %.2g: %s\n", TESTS, many, one, allowed,
           passed ? "passed" : "FAILED");
    return passed ? 0 : 1;
}
#endif
