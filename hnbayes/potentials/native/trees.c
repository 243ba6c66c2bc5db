/* The leaves of NUTS's trees: what NUTS.advance does between two decisions that are Python's, for any number of leaves.
 *
 * Chains don't wait for each other, and each is grown by one thread alone; so its numbers depend neither on the other
 * chains nor on the number of threads. Sums are kept in double precision.
 */

#define PARTS 8 /* sums side by side, so that a compiler may use vectors */

/* As growth.py lays it out. Arrays have the chain first; see Tree in nuts.py for what they hold. */
typedef struct {
    point at;
    const void *context;
    int64_t bytes, operations;         /* of a point: its memory, and about how much work it is */
    int64_t chains, dimension, slots;  /* slots: first leaves that are kept for each chain */
    int64_t inverse_row, inverse_step; /* strides of the inverse metric, in numbers; 0 where it is the same for all */
    int64_t exponentials_row;
    int64_t most, threads;             /* leaves a call for each chain */
    double delta_max;
    real *q, *p, *gradient, *candidate_q, *candidate_gradient, *first_q, *first_p;
    const real *step, *inverse;
    double *candidate_energy, *candidate_hamiltonian, *subtree_log_weight, *accept_sum, *lowest, *highest;
    const double *start, *exponentials;
    int64_t *leaf;
    const int64_t *size, *right;
    uint8_t *turning, *diverging;
} growth;

static double sum_parts(const double *part) {
    double sum = 0;
    for (int k = 0; k < PARTS; k++) sum += part[k];
    return sum;
}

/* p^T M^-1 p */
static double twice_kinetic(const real *p, const real *inverse, int64_t step, int64_t n) {
    double part[PARTS] = {0};
    int64_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (int k = 0; k < PARTS; k++) part[k] += (double)p[i + k] * (double)inverse[(i + k) * step] * (double)p[i + k];
    for (; i < n; i++) part[0] += (double)p[i] * (double)inverse[i * step] * (double)p[i];
    return sum_parts(part);
}

/* Whether going on from either end would bring the ends closer. */
static int turns(const real *first_q, const real *last_q, const real *first_p, const real *last_p, int forwards, int64_t n) {
    double first[PARTS] = {0}, last[PARTS] = {0};
    int64_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (int k = 0; k < PARTS; k++) {
            const double apart = (double)last_q[i + k] - (double)first_q[i + k];
            first[k] += apart * (double)first_p[i + k];
            last[k] += apart * (double)last_p[i + k];
        }
    for (; i < n; i++) {
        const double apart = (double)last_q[i] - (double)first_q[i];
        first[0] += apart * (double)first_p[i];
        last[0] += apart * (double)last_p[i];
    }
    const double sign = forwards ? 1 : -1;
    return sign * sum_parts(first) <= 0 || sign * sum_parts(last) <= 0;
}

/* log(exp(a) + exp(b)) */
static double log_add(double a, double b) {
    if (a == b) return a + 0x1.62e42fefa39efp-1; /* log 2; both may be -inf */
    const double high = a > b ? a : b, low = a > b ? b : a;
    return high + log1p(exp(low - high));
}

/* The number of trailing one-bits of n counts the nested subtrees that leaf n closes (see uturn.py). */
static int closes_a_turn(const growth *g, int64_t chain, int64_t n, const real *q, const real *p) {
    const int64_t D = g->dimension, slot = __builtin_popcountll((unsigned long long)n >> 1);
    real *first_q = g->first_q + (chain * g->slots + slot) * D, *first_p = g->first_p + (chain * g->slots + slot) * D;
    if (n % 2 == 0) {
        memcpy(first_q, q, D * sizeof(real));
        memcpy(first_p, p, D * sizeof(real));
        return 0;
    }
    const int forwards = g->right[chain] != 0;
    for (; n & 1; n >>= 1, first_q -= D, first_p -= D)
        if (turns(first_q, q, first_p, p, forwards, D)) return 1;
    return 0;
}

/* The task of a thread: a chain's subtree. */
static void grow(const void *context, int64_t chain, void *memory) {
    const growth *g = context;
    const int64_t D = g->dimension, size = g->size[chain], step = g->inverse_step;
    real *q = g->q + chain * D, *p = g->p + chain * D, *gradient = g->gradient + chain * D;
    const real *inverse = g->inverse + chain * g->inverse_row, epsilon = g->step[chain], half = (real)0.5 * epsilon;
    const double *exponential = g->exponentials + chain * g->exponentials_row;
    const double start = g->start[chain];
    double weights = g->subtree_log_weight[chain], sum = g->accept_sum[chain], lowest = g->lowest[chain], highest = g->highest[chain];
    int turning = 0, diverging = 0;
    int64_t leaf = g->leaf[chain];
    for (int64_t n = 0; n < g->most && leaf < size && !turning && !diverging; n++) {
        /* A leapfrog step (Neal 2011, equations 2.28-2.30). */
        for (int64_t i = 0; i < D; i++) {
            p[i] -= half * gradient[i];
            q[i] += epsilon * (inverse[i * step] * p[i]);
        }
        real value = NAN;
        if (memory) g->at(g->context, q, gradient, &value, memory);
        for (int64_t i = 0; i < D; i++) p[i] -= half * gradient[i];
        /* What is not finite counts as infinite energy. */
        const double energy = isfinite(value) ? (double)value : INFINITY;
        const double H = energy + 0.5 * twice_kinetic(p, inverse, step, D);
        const double weight = start - H > -INFINITY ? start - H : -INFINITY; /* so is NaN */
        sum += exp(weight < 0 ? weight : 0);
        if (weight < lowest) lowest = weight;
        if (weight > highest) highest = weight;
        weights = log_add(weights, weight);
        if (-exponential[leaf] <= weight - weights) {
            memcpy(g->candidate_q + chain * D, q, D * sizeof(real));
            memcpy(g->candidate_gradient + chain * D, gradient, D * sizeof(real));
            g->candidate_energy[chain] = energy;
            g->candidate_hamiltonian[chain] = H;
        }
        diverging = weight < -g->delta_max;
        turning = closes_a_turn(g, chain, leaf, q, p);
        leaf++;
    }
    g->subtree_log_weight[chain] = weights, g->accept_sum[chain] = sum;
    g->lowest[chain] = lowest, g->highest[chain] = highest, g->leaf[chain] = leaf;
    g->turning[chain] = (uint8_t)turning, g->diverging[chain] = (uint8_t)diverging;
}

/* Grow the subtrees of all chains. Less work than `worth_sharing` isn't worth waking a thread. */
void grow_trees(const growth *g, int64_t worth_sharing) {
    int64_t leaves = 0;
    for (int64_t c = 0; c < g->chains; c++) {
        const int64_t left = g->size[c] - g->leaf[c];
        leaves += left < g->most ? left : g->most;
    }
    share(grow, g, g->bytes, g->chains, leaves * g->operations < worth_sharing ? 1 : g->threads);
}
