/* Elementary functions of one number, without branches, so that compilers make vector code of loops over them; accurate to
 * a few units in the last place. NaN stays NaN.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#ifdef DOUBLE
typedef uint64_t natural;
#define EXP_LOWEST -750.0
#define EXP_HIGHEST 710.0
#define HALF_ROOT_BITS ((integer)0x3fe6a09e667f3bcd) /* sqrt(1/2) */
#define SMALLEST_NORMAL 0x1p-1022
#define RAISE 54
#define RAISED 0x1p54
#define LOG_SERIES 11
#define MATH(name) name
#else
typedef uint32_t natural;
#define EXP_LOWEST -110.0f
#define EXP_HIGHEST 89.0f
#define HALF_ROOT_BITS ((integer)0x3f3504f3)
#define SMALLEST_NORMAL 0x1p-126f
#define RAISE 25
#define RAISED 0x1p25f
#define LOG_SERIES 5
#define MATH(name) name##f
#endif
#define BIAS ((integer)(ONE_BITS >> SHIFT))

INLINE integer bits_of(real x) {
    integer bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE real from_bits(integer bits) {
    real x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^n, where that is a normal number. */
INLINE real power_of_two(integer n) { return from_bits((integer)((natural)(n + BIAS) << SHIFT)); }

/* n and exp(r) - 1, of x = n log(2) + r with |r| <= log(2) / 2. */
INLINE real reduce_exponent(real x, integer *n) {
    x = x < EXP_LOWEST ? EXP_LOWEST : x;
    x = x > EXP_HIGHEST ? EXP_HIGHEST : x;
    const real shifted = x * (real)1.4426950408889634 + (real)ROUNDER;
    const real whole = shifted - (real)ROUNDER;
    *n = bits_of(shifted) - bits_of((real)ROUNDER);
    const real r = (x - whole * (real)LN2_HIGH) - whole * (real)LN2_LOW;
    static const real inverse_factorial[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    real p = inverse_factorial[EXP_TERMS];
#pragma GCC unroll 16
    for (int k = EXP_TERMS - 1; k > 0; k--) p = p * r + inverse_factorial[k];
    return p * r;
}

INLINE real exponential(real x) {
    integer n;
    const real p = reduce_exponent(x, &n);
    /* In two steps, as 2^n may be no normal number. Shifts of signed numbers aren't vectors everywhere. */
    const integer half = (integer)((natural)(n + 4096) >> 1) - 2048;
    return (p + 1) * power_of_two(half) * power_of_two(n - half);
}

/* exp(x) - 1 */
INLINE real exponential_less_1(real x) {
    integer n;
    const real p = reduce_exponent(x < (real)LOWEST ? (real)LOWEST : x, &n);
    const real half = power_of_two(n - 1);
    return 2 * (half * p + (half - (real)0.5));
}

/* x = 2^k m with sqrt(1/2) <= m < sqrt(2); log(1 + f) = f - s (f - R), s = f / (2 + f), R = 2 (s^2 / 3 + s^4 / 5 + ...). */
INLINE real logarithm(real x) {
    const int low = x < (real)SMALLEST_NORMAL;
    const natural bits = (natural)bits_of(low ? x * (real)RAISED : x) + (natural)(ONE_BITS - HALF_ROOT_BITS);
    const integer exponent = (integer)(bits >> SHIFT) - BIAS;
    const real k = (from_bits(bits_of((real)ROUNDER) + exponent) - (real)ROUNDER) - (low ? (real)RAISE : (real)0);
    const real f = from_bits((integer)(bits & (((natural)1 << SHIFT) - 1)) + HALF_ROOT_BITS) - 1;
    const real s = f / (2 + f), t = s * s;
    real sum = (real)(2.0 / (2 * LOG_SERIES + 1));
#pragma GCC unroll 12
    for (int j = LOG_SERIES - 1; j > 0; j--) sum = sum * t + (real)(2.0 / (2 * j + 1));
    real y = k * (real)LN2_HIGH + (f - (s * (f - sum * t) - k * (real)LN2_LOW));
    y = x > 0 ? y : x == 0 ? -(real)INFINITY : (real)NAN;
    return x == (real)INFINITY ? x : y;
}

/* log(1 + x) */
INLINE real logarithm_1_plus(real x) {
    const real u = 1 + x, lost = (x - (u - 1)) / u;
    return logarithm(u) + (u > 0 && u < (real)INFINITY ? lost : 0);
}

INLINE real tangent_h(real x) {
    const real t = exponential_less_1(-2 * (x < 0 ? -x : x)), y = -t / (t + 2);
    return x < 0 ? -y : y;
}

INLINE real logistic(real x) { return 1 / (1 + exponential(-x)); }

INLINE real softplus_of(real x, real slope, real straight) {
    return x * slope > straight ? x : logarithm_1_plus(exponential(x * slope)) / slope;
}

/* Of these, NaN is the larger and the smaller one. */
INLINE real larger(real a, real b) { return a > b || a != a ? a : b; }
INLINE real smaller(real a, real b) { return a < b || a != a ? a : b; }

INLINE real root(real x) { return MATH(sqrt)(x); }

static inline real log_gamma(real x) {
    int sign;
    #ifdef DOUBLE
    return lgamma_r(x, &sign);
#else
    return lgammaf_r(x, &sign);
#endif
}

/* The derivative of log Gamma: recurrence up to 10, then the asymptotic series; below 0 by reflection. */
static inline real digamma(real number) {
    const double pi = 0x1.921fb54442d18p+1;
    double x = (double)number, sum = 0;
    if (x == 0) return copysign((real)INFINITY, -number);
    if (x < 0) {
        if (x == floor(x)) return (real)NAN;
        sum = -pi / tan(pi * (x - floor(x)));
        x = 1 - x;
    }
    if (!(x < INFINITY)) return (real)x;
    for (; x < 10; x += 1) sum -= 1 / x;
    const double t = 1 / (x * x);
    const double series = t * (1.0 / 12 - t * (1.0 / 120 - t * (1.0 / 252 - t * (1.0 / 240 - t * (1.0 / 132 - t * (691.0 / 32760))))));
    return (real)(sum + log(x) - 0.5 / x - series);
}
