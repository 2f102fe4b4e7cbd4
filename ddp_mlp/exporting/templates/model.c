/* @title@
 *
@about@
 *
 * Build:      cc -O3 -march=native -c @file@.c      C99, no library but libm, no heap, @state@: thread-safe
 * Self-test:  cc -O3 -DSELFTEST @file@.c -lm && ./a.out
 *
@variables@
 */
@declarations@
@include_float@#include <math.h>
#include <string.h>

typedef @real@ real;

enum {
    LAYERS = @layers@,
    WIDEST = @widest@, /* the largest width, rounded up to whole panels */
    LANES = @lanes@,   /* outputs of a panel: W is stored panel by panel, each (inputs, LANES), the last filled with zeros */
    ROWS = 8,          /* rows that a panel is multiplied by at a time */
    GROUPS = @groups@,       /* of ROWS rows that a block has: a panel stays in the cache for all of them */
    CHUNK = @chunk@       /* inputs whose products are added up one after the other; sums of chunks are added after that */
};

/* Outputs that are computed together. Each has its own sum, in one order: the lanes decide speed, not results. */
#if defined(__GNUC__)
#if defined(__AVX512F__)
typedef real lanes __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef real lanes __attribute__((vector_size(32)));
#else
typedef real lanes __attribute__((vector_size(16)));
#endif
#define ALIGNED __attribute__((aligned(64)))
#else
typedef real lanes;
#define ALIGNED
#endif
enum { STEP = sizeof(lanes) / sizeof(real) };

@weights@

struct layer {
    size_t n_prev, n;
    const real *W, *b;@bits_member@
};

static const struct layer layers[LAYERS] = {
@table@
};
@standardization@@target@
static inline lanes load(const real *from)
{
    lanes v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store(real *to, lanes v)
{
    memcpy(to, &v, sizeof v);
}

/* Add W a to tile (ROWS, LANES), for n inputs of one panel and of a (n, ROWS). */
static void multiply(size_t n, const real *restrict W, const real *restrict a, real *restrict tile)
{
    for (size_t j = 0; j < LANES; j += STEP) {
        lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
        for (size_t i = 0; i < n; i++) {
            const lanes w = load(W + i * LANES + j);
            const real *x = a + i * ROWS;
            s0 += x[0] * w;
            s1 += x[1] * w;
            s2 += x[2] * w;
            s3 += x[3] * w;
            s4 += x[4] * w;
            s5 += x[5] * w;
            s6 += x[6] * w;
            s7 += x[7] * w;
        }
        real *out = tile + j;
        store(out, load(out) + s0);
        store(out + LANES, load(out + LANES) + s1);
        store(out + 2 * LANES, load(out + 2 * LANES) + s2);
        store(out + 3 * LANES, load(out + 3 * LANES) + s3);
        store(out + 4 * LANES, load(out + 4 * LANES) + s4);
        store(out + 5 * LANES, load(out + 5 * LANES) + s5);
        store(out + 6 * LANES, load(out + 6 * LANES) + s6);
        store(out + 7 * LANES, load(out + 7 * LANES) + s7);
    }
}

/* Add W a to z (LANES,), for n inputs of one panel and of a (n,). */
static void multiply_row(size_t n, const real *restrict W, const real *restrict a, real *restrict z)
{
    for (size_t j = 0; j < LANES; j += STEP) {
        lanes s = {0};
        for (size_t i = 0; i < n; i++) {
            s += a[i] * load(W + i * LANES + j);
        }
        store(z + j, load(z + j) + s);
    }
}

/* The same for four panels, `stride` numbers apart, whose sums do not wait for one another; z (4, LANES). */
static void multiply_row_4(size_t n, size_t stride, const real *restrict W, const real *restrict a, real *restrict z)
{
    for (size_t j = 0; j < LANES; j += STEP) {
        lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (size_t i = 0; i < n; i++) {
            const real *w = W + i * LANES + j;
            s0 += a[i] * load(w);
            s1 += a[i] * load(w + stride);
            s2 += a[i] * load(w + 2 * stride);
            s3 += a[i] * load(w + 3 * stride);
        }
        real *out = z + j;
        store(out, load(out) + s0);
        store(out + LANES, load(out + LANES) + s1);
        store(out + 2 * LANES, load(out + 2 * LANES) + s2);
        store(out + 3 * LANES, load(out + 3 * LANES) + s3);
    }
}
@exact@@activation@
/* Turn the output layer's z, of one row in z[0], z[stride], ..., into y. */
static void finish(const real *z, size_t stride, double *y)
{
@output@
}

void @P@_predict_one(const double x[@M@_FEATURES], double y[@M@_OUTPUTS])
{
    ALIGNED real buffers[2][WIDEST];
    real *a = buffers[0], *z = buffers[1];
@guard_one@    for (size_t i = 0; i < @M@_FEATURES; i++) { /* 0 * x is NaN where x is infinite: no function hides that */
        a[i] = @standardized_one@;
    }
@settled_one@    for (size_t l = 0; l < LAYERS; l++) {
        const struct layer layer = layers[l];
        const size_t stride = layer.n_prev * LANES, panels = (layer.n + LANES - 1) / LANES;
        memset(z, 0, panels * LANES * sizeof(real));
        for (size_t i = 0; i < layer.n_prev; i += CHUNK) {
            const size_t n = layer.n_prev - i < CHUNK ? layer.n_prev - i : CHUNK;
            const real *W = layer.W + i * LANES;
            size_t p = 0;
            for (; p + 4 <= panels; p += 4) {
                multiply_row_4(n, stride, W + p * stride, a + i, z + p * LANES);
            }
            for (; p < panels; p++) {
                multiply_row(n, W + p * stride, a + i, z + p * LANES);
            }
        }
        for (size_t j = 0; j < panels * LANES; j++) {
            z[j] += layer.b[j];
        }
@activate_one@@settle_one@        real *const other = a;
        a = z;
        z = other;
    }
    finish(a, 1, y);
}

/* Compute `groups` groups of ROWS rows, standardized in A (groups, WIDEST, ROWS): return where z of the output is. */
static real *forward(size_t groups, real *A, real *Z)
{
    for (size_t l = 0; l < LAYERS; l++) {
        const struct layer layer = layers[l];
        for (size_t first = 0; first < layer.n; first += LANES) {
            ALIGNED real tiles[GROUPS][ROWS * LANES];
            const real *W = layer.W + first * layer.n_prev, *b = layer.b + first;
            const size_t width = layer.n - first < LANES ? layer.n - first : LANES;
            memset(tiles, 0, sizeof tiles);
            for (size_t i = 0; i < layer.n_prev; i += CHUNK) {
                const size_t n = layer.n_prev - i < CHUNK ? layer.n_prev - i : CHUNK;
                for (size_t g = 0; g < groups; g++) {
                    multiply(n, W + i * LANES, A + (g * WIDEST + i) * ROWS, tiles[g]);
                }
            }
            for (size_t g = 0; g < groups; g++) {
                for (size_t r = 0; r < ROWS; r++) {
                    for (size_t j = 0; j < LANES; j++) {
                        tiles[g][r * LANES + j] += b[j];
                    }
                }
@activate_many@                real *const out = Z + (g * WIDEST + first) * ROWS;
                for (size_t j = 0; j < width; j++) {
                    for (size_t r = 0; r < ROWS; r++) {
                        out[j * ROWS + r] = tiles[g][r * LANES + j];
                    }
                }
            }
        }
@settle_many@        real *const other = A;
        A = Z;
        Z = other;
    }
    return A;
}

void @P@_predict_many(size_t rows, const double *x, double *y)
{
    ALIGNED real buffers[2][GROUPS * WIDEST * ROWS];
@guard_many@    while (rows > 0) {
        const size_t block = rows < GROUPS * ROWS ? rows : GROUPS * ROWS, groups = (block + ROWS - 1) / ROWS;
        for (size_t r = 0; r < groups * ROWS; r++) {
            real *const a = buffers[0] + r / ROWS * (WIDEST * ROWS) + r % ROWS;
            const double *const row = x + (r < block ? r : block - 1) * @M@_FEATURES; /* a last group is filled up */
            for (size_t i = 0; i < @M@_FEATURES; i++) {
                a[i * ROWS] = @standardized_many@;
            }
        }
@settled_many@        const real *const z = forward(groups, buffers[0], buffers[1]);
        for (size_t r = 0; r < block; r++) {
            finish(z + r / ROWS * (WIDEST * ROWS) + r % ROWS, ROWS, y + r * @M@_OUTPUTS);
        }
        x += block * @M@_FEATURES;
        y += block * @M@_OUTPUTS;
        rows -= block;
    }
}
@label@@names@@loading@@selftest@
