#ifndef VECTORS_H
#define VECTORS_H
/* Vectors of numbers as the processor has them, and elementary functions of whole vectors, accurate to a few units in the
 * last place. NaN stays NaN.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef DOUBLE
typedef double real;
typedef int64_t integer;
#define SHIFT 52
#define ONE_BITS ((integer)1023 << SHIFT)
#define ROUNDER 0x1.8p52
#define LN2_HIGH 0x1.62e42p-1
#define LN2_LOW 0x1.fdf473de6af28p-22
#define LOWEST -708.0
#define EXP_TERMS 13
#define LOG_TERMS 17
#else
typedef float real;
typedef int32_t integer;
#define SHIFT 23
#define ONE_BITS ((integer)127 << SHIFT)
#define ROUNDER 0x1.8p23f
#define LN2_HIGH 0x1.62ep-1f
#define LN2_LOW 0x1.0bfbe8p-15f
#define LOWEST -87.0f
#define EXP_TERMS 7
#define LOG_TERMS 8
#endif

#if defined(__AVX512F__)
#define BYTES 64
#define TILE_VECTORS 4
#elif defined(__AVX__)
#define BYTES 32
#define TILE_VECTORS 2
#else
#define BYTES 16
#define TILE_VECTORS 2
#endif
#define TILE_ROWS 4
#define SUMS (TILE_ROWS * TILE_VECTORS) /* kept in registers at a time */
#define LANES ((int64_t)(BYTES / sizeof(real)))

/* Compilers would rather read an operand from memory each time than keep it in a register. */
#if defined(__x86_64__)
#define KEEP(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define KEEP(x) __asm__("" : "+w"(x))
#else
#define KEEP(x) (void)(x)
#endif

typedef real vec __attribute__((vector_size(BYTES), may_alias));
typedef integer mask __attribute__((vector_size(BYTES), may_alias));
#define INLINE static inline __attribute__((always_inline))

enum activation { IDENTITY, TANH, RELU, SIGMOID, SOFTPLUS, SILU };
INLINE vec all(real x) { return x - (vec){0}; }
INLINE vec pick(mask m, vec a, vec b) { return (vec)(((mask)a & m) | ((mask)b & ~m)); }
INLINE mask all_integers(int64_t x) { return (integer)x - (mask){0}; }
INLINE vec magnitude(vec x) { return (vec)((mask)x & (mask)~(mask)all((real)-0.0)); }

/* exp(x) - 1 = scale * (1 + p) - 1 for x <= 0, with p = exp(r) - 1 by its Taylor series, |r| <= log(2) / 2. */
INLINE vec exp_parts(vec x, vec *scale) {
    x = pick(x < all(LOWEST), all(LOWEST), x);
    vec shifted = x * all((real)1.4426950408889634) + all(ROUNDER);
    vec n = shifted - all(ROUNDER);
    vec r = (x - n * all(LN2_HIGH)) - n * all(LN2_LOW);
    *scale = (vec)(((mask)shifted << SHIFT) + ONE_BITS);
    static const double inverse_factorial[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    vec p = all((real)inverse_factorial[EXP_TERMS]);
#pragma GCC unroll 16
    for (int k = EXP_TERMS - 1; k > 0; k--) p = p * r + all((real)inverse_factorial[k]);
    return p * r;
}

INLINE vec exp_negative(vec x) {
    vec scale, p = exp_parts(x, &scale);
    return scale * p + scale;
}

/* log(1 + u) for 0 <= u <= 1, by the series of 2 artanh(u / (2 + u)). */
INLINE vec log1p_unit(vec u) {
    vec s = u / (u + all(2)), square = s * s, sum = all((real)(1.0 / (2 * LOG_TERMS + 1)));
#pragma GCC unroll 20
    for (int k = LOG_TERMS - 1; k >= 0; k--) sum = sum * square + all((real)(1.0 / (2 * k + 1)));
    return all(2) * s * sum;
}

/* log(x) for finite x >= 1: its exponent times log 2, and the log of its fraction, in [1, 2). */
INLINE vec log_upwards(vec x) {
    const mask exponent = ((mask)x >> SHIFT) - (ONE_BITS >> SHIFT);
    const vec fraction = (vec)(((mask)x & (((integer)1 << SHIFT) - 1)) | ONE_BITS);
    const vec found = __builtin_convertvector(exponent, vec) * all((real)0x1.62e42fefa39efp-1) + log1p_unit(fraction - all(1));
    return pick(x < all(INFINITY), found, x); /* NaN too stays what it is */
}

INLINE vec sigmoid(vec x) {
    vec e = exp_negative(-magnitude(x));
    return pick(x < all(0), e, all(1)) / (all(1) + e);
}

INLINE vec softplus(vec x) { return pick(x < all(0), all(0), x) + log1p_unit(exp_negative(-magnitude(x))); }

#ifdef DOUBLE
INLINE vec hyperbolic_tangent(vec x) {
    vec scale, p = exp_parts(all(-2) * magnitude(x), &scale);
    vec t = scale * p + (scale - all(1)); /* exp(-2 |x|) - 1 */
    return (vec)((mask)(-t / (t + all(2))) | ((mask)x & (mask)all((real)-0.0)));
}
#else
/* x P(x^2) / Q(x^2), both of degree 4 and without a negative coefficient: the least largest relative error, 2.1e-8, on
 * |x| < 9.02, where tanh is 1 in single precision (found by iteratively reweighted least squares). */
INLINE vec hyperbolic_tangent(vec x) {
    x = pick(x > all(9.02f), all(9.02f), x);
    x = pick(x < all(-9.02f), all(-9.02f), x);
    const vec t = x * x;
    vec p = all(0x1.c9a4b0p-27f), q = all(0x1.a0b8fap-21f);
    p = p * t + all(0x1.5955b8p-16f), q = q * t + all(0x1.584212p-12f);
    p = p * t + all(0x1.c9f884p-9f), q = q * t + all(0x1.a7df3ap-6f);
    p = p * t + all(0x1.120448p-3f), q = q * t + all(0x1.de576cp-2f);
    p = p * t + all(1), q = q * t + all(1);
    vec y = x * p / q;
    y = pick(y > all(1), all(1), y);
    return pick(y < all(-1), all(-1), y);
}
#endif

/* An activation and its slope at x. */
INLINE vec activate(int64_t kind, vec x, vec *slope) {
    if (kind == TANH) {
        vec y = hyperbolic_tangent(x);
        *slope = all(1) - y * y;
        return y;
    }
    if (kind == RELU) {
        *slope = pick(x <= all(0), all(0), all(1));
        return pick(x <= all(0), all(0), x);
    }
    vec s = sigmoid(x);
    if (kind == SIGMOID) {
        *slope = s * (all(1) - s);
        return s;
    }
    if (kind == SILU) {
        *slope = s * (all(1) + x * (all(1) - s));
        return x * s;
    }
    /* Softplus; torch goes on in a straight line above 20. */
    *slope = pick(x > all(20), all(1), s);
    return pick(x > all(20), x, softplus(x));
}

/* 0, 1, 2, ... */
INLINE mask row_numbers(void) {
    mask number = {0};
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) number[i] = i;
    return number;
}

INLINE real sum_lanes(vec x) {
    real lane[BYTES / sizeof(real)];
    memcpy(lane, &x, BYTES);
#pragma GCC unroll 8
    for (int half = BYTES / sizeof(real) / 2; half; half /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

/* The sums of each of SUMS vectors' lanes. Two vectors become one, with half of the lanes for each, until one vector (or, if
 * it has fewer lanes, some) holds them all: lane p of vector j is the sum of vector p * left + j, for `left` vectors. */
INLINE void sums_of_lanes(vec *x, real *total) {
    int count = SUMS;
#pragma GCC unroll 8
    for (int half = LANES / 2; half; half /= 2) {
        const mask lane = row_numbers();
        const mask low = (lane & half) == 0;
        /* Shuffles count the second vector's lanes on from LANES. */
        const mask own = lane + (~low & (integer)LANES), other = (low & (lane + half)) | (~low & (lane - half + (integer)LANES));
        count /= 2;
#pragma GCC unroll 8
        for (int i = 0; i < count; i++)
            x[i] = __builtin_shuffle(x[i], x[i + count], own) + __builtin_shuffle(x[i], x[i + count], other);
    }
#pragma GCC unroll 16
    for (int j = 0; j < count; j++)
#pragma GCC unroll 16
        for (int p = 0; p < LANES; p++) total[p * count + j] = x[j][p];
}

#endif
