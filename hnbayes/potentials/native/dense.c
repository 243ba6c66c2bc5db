/* The loss of a stack of dense layers on all rows of a data set, with its gradient, for several weight vectors ("chains").
 *
 * Compiled once for each type of number (-DDOUBLE for double). A chain is computed by one thread, always in the same
 * order, so its result depends neither on the other chains nor on the number of threads.
 *
 * Rows of data are the contiguous dimension, a unit's numbers standing side by side, so that layers of any width fill
 * whole vectors and weights are read where they are. Rows go through the network in blocks whose activations stay in
 * the cache. Data are turned round once, and again if they have changed.
 */
#include "products.h"

#define CACHE 400000 /* bytes of activations and sensitivities that a block of rows may have */
#define MOST_ROWS 464

enum loss { SQUARES, CATEGORICAL, BERNOULLI };

/* As Python lays it out: 64-bit integers all. Offsets are places in the position; bias is -1 where there is none. */
typedef struct {
    int64_t units, activation, weight, bias;
} layer;

typedef struct {
    int64_t layers, rows, inputs, loss, dimension;
    layer layer[];
} network;

typedef struct {
    const network *net;
    const void *x;        /* (rows, inputs), the caller's */
    const void *y;        /* (rows, units of the last layer), or int64 labels (rows,), the caller's */
    real *seen_x, *seen_y; /* what they were when they were turned round */
    real *columns_x;      /* (inputs, stride_of(rows)) */
    real *columns_y;      /* (units, stride_of(rows)), unless they are labels */
    const real *centre;   /* of a normal prior, (dimension,); NULL without one */
    const real *inverse;  /* its inverse variances */
    double factor;        /* U = factor * loss + prior + constant */
    double constant;
} problem;

/* Where the next unit's rows begin: an odd number of cache lines on, as even ones would share few places in the cache. */
static int64_t stride_of(int64_t rows) {
    const int64_t line = 64 / sizeof(real);
    return ((rows + line - 1) / line | 1) * line;
}

/* As few blocks as the cache allows, alike in size. */
static int64_t rows_of_block(const network *net) {
    int64_t units = 0;
    for (int64_t l = 0; l < net->layers; l++) units += net->layer[l].units;
    int64_t most = CACHE / (2 * units * (int64_t)sizeof(real));
    most = most < 4 * LANES ? 4 * LANES : most > MOST_ROWS ? MOST_ROWS : most;
    const int64_t blocks = (net->rows + most - 1) / most;
    return padded((net->rows + blocks - 1) / blocks);
}

/* ---- data ---- */

static void turn_round(const real *from, real *seen, real *to, int64_t rows, int64_t columns) {
    const size_t bytes = rows * columns * sizeof(real);
    if (!memcmp(from, seen, bytes)) return;
    memcpy(seen, from, bytes);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < columns; k++) to[k * stride_of(rows) + r] = from[r * columns + k];
}

/* Data as they are now; what they were is all 0 at first. */
void dense_take(const problem *j) {
    const network *net = j->net;
    turn_round(j->x, j->seen_x, j->columns_x, net->rows, net->inputs);
    if (net->loss != CATEGORICAL) turn_round(j->y, j->seen_y, j->columns_y, net->rows, net->layer[net->layers - 1].units);
}

/* ---- products ---- */

/* The products over rows of R units' sensitivities with SUMS / R inputs each, or with 1 for the bias. */
typedef struct {
    const real *delta; /* (units, delta_stride) */
    const real *input; /* (inputs, input_stride) */
    int64_t units, inputs, delta_stride, input_stride, rows;
    const real *ones;
    real *weight, *bias; /* gradients that are added to; bias may be NULL */
} sensitivities;

/* R is a constant where it is inlined. What is beyond the last unit or input is the last one again, and isn't kept. */
INLINE void dots(const int R, const sensitivities *s, int64_t unit, int64_t first) {
    const int C = SUMS / R;
    const real *left[SUMS], *right[SUMS];
    vec sum[SUMS];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) left[i] = s->delta + (unit + i < s->units ? unit + i : s->units - 1) * s->delta_stride;
#pragma GCC unroll 16
    for (int c = 0; c < C; c++) right[c] = first + c < s->inputs ? s->input + (first + c) * s->input_stride : s->ones;
#pragma GCC unroll 16
    for (int k = 0; k < SUMS; k++) sum[k] = all(0);
    for (int64_t r = 0; r < s->rows; r += LANES) {
        vec l[SUMS];
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            l[i] = *(const vec *)(left[i] + r);
            KEEP(l[i]);
        }
#pragma GCC unroll 16
        for (int c = 0; c < C; c++) {
            vec x = *(const vec *)(right[c] + r);
            KEEP(x);
#pragma GCC unroll 16
            for (int i = 0; i < R; i++) sum[i * C + c] += l[i] * x;
        }
    }
    real total[SUMS];
    sums_of_lanes(sum, total);
    for (int i = 0; i < R && unit + i < s->units; i++) {
        for (int c = 0; c < C && first + c < s->inputs; c++) s->weight[(unit + i) * s->inputs + first + c] += total[i * C + c];
        if (s->bias && first <= s->inputs && s->inputs < first + C) s->bias[unit + i] += total[i * C + s->inputs - first];
    }
}

static void add_products(sensitivities s) {
    const int64_t columns = s.inputs + (s.bias ? 1 : 0);
    int64_t unit = 0;
    for (; unit + 2 < s.units; unit += 4)
        for (int64_t k = 0; k < columns; k += SUMS / 4) dots(4, &s, unit, k);
    if (unit + 1 < s.units)
        for (int64_t k = 0; k < columns; k += SUMS / 2) dots(2, &s, unit, k);
    else if (unit < s.units)
        for (int64_t k = 0; k < columns; k += SUMS) dots(1, &s, unit, k);
}

/* ---- one chain ---- */

/* A layer's room for a block of rows: (units, stride) each. `delta` holds slopes until sensitivities take their place. */
typedef struct {
    int64_t inputs, units, stride;
    real *output, *delta;
} room;

/* Lays rooms out from `memory` on (both NULL to count only); returns how many numbers they take. */
static int64_t furnish(const network *net, room *rooms, real *memory) {
    const int64_t stride = stride_of(rows_of_block(net));
    int64_t used = stride, inputs = net->inputs; /* the first are ones */
    for (int64_t l = 0; l < net->layers; l++) {
        const int64_t units = net->layer[l].units, size = units * stride;
        if (rooms) rooms[l] = (room){inputs, units, stride, memory + used, memory + used + size};
        used += 2 * size;
        inputs = units;
    }
    return used;
}

static void activate_all(int64_t activation, const room *m, int64_t rows) {
    for (int64_t h = 0; h < m->units; h++) {
        vec *z = (vec *)(m->output + h * m->stride), *slope = (vec *)(m->delta + h * m->stride);
#define EACH(kind)                                                                        \
    case kind:                                                                            \
        for (int64_t i = 0; i < rows / LANES; i++) z[i] = activate(kind, z[i], slope + i); \
        break;
        switch (activation) {
            EACH(TANH) EACH(RELU) EACH(SIGMOID) EACH(SOFTPLUS) EACH(SILU)
        }
#undef EACH
    }
}

/* The loss of a block of rows from the outputs of the last layer; `delta`, which holds slopes unless the layer has no
 * activation, becomes the derivative by what goes into the activation. Rows beyond the last count 0. */
static double losses(const problem *j, const room *m, int64_t first, int64_t rows) {
    const int64_t units = m->units, stride = m->stride, y_stride = stride_of(j->net->rows);
    const vec factor = all((real)j->factor);
    const int has_slope = j->net->layer[j->net->layers - 1].activation != IDENTITY;
    double sum = 0;
    for (int64_t r = 0; r < rows; r += LANES) {
        const mask counts = row_numbers() < (mask)all_integers(rows - r);
        const real *z = m->output + r;
        real *delta = m->delta + r;
        vec loss = all(0), top = all(0), total = all(0);
        mask label = all_integers(-1);
        if (j->net->loss == CATEGORICAL) {
            top = *(const vec *)z;
            for (int64_t h = 1; h < units; h++) {
                const vec x = *(const vec *)(z + h * stride);
                top = pick(x > top, x, top);
            }
            for (int64_t h = 0; h < units; h++) total += exp_negative(*(const vec *)(z + h * stride) - top);
            loss = top + log_upwards(total);
            for (int64_t i = 0; i < LANES && r + i < rows; i++) label[i] = (integer)((const int64_t *)j->y)[first + r + i];
        }
        for (int64_t h = 0; h < units; h++) {
            const vec x = *(const vec *)(z + h * stride);
            vec *d = (vec *)(delta + h * stride), derivative;
            if (j->net->loss == SQUARES) {
                derivative = x - *(const vec *)(j->columns_y + h * y_stride + first + r);
                loss += all((real)0.5) * derivative * derivative;
            } else if (j->net->loss == BERNOULLI) {
                const vec y = *(const vec *)(j->columns_y + h * y_stride + first + r);
                derivative = sigmoid(x) - y;
                loss += softplus(x) - y * x;
            } else {
                const mask is_label = label == all_integers(h);
                derivative = exp_negative(x - top) / total - pick(is_label, all(1), all(0));
                loss -= pick(is_label, x, all(0));
            }
            derivative = pick(counts, derivative, all(0)) * factor;
            if (has_slope) derivative *= *d;
            *d = derivative;
        }
        sum += (double)sum_lanes(pick(counts, loss, all(0)));
    }
    return sum;
}

static size_t bytes_of_rooms(const network *net) { return (net->layers * sizeof(room) + 63) / 64 * 64; }

/* How much memory `dense_point` needs. */
int64_t dense_bytes(const void *net) { return bytes_of_rooms(net) + furnish(net, NULL, NULL) * sizeof(real); }

/* U and its gradient at one position: a point (see points.h); the context is a problem. */
void dense_point(const void *context, const real *q, real *gradient, real *value, void *memory) {
    const problem *j = context;
    const network *net = j->net;
    room *rooms = memory;
    real *ones = (real *)((char *)memory + bytes_of_rooms(net));
    furnish(net, rooms, ones);
    const int64_t last = net->layers - 1, D = net->dimension, block = rows_of_block(net), x_stride = stride_of(net->rows);
    for (int64_t r = 0; r < block; r++) ones[r] = 1;
    double prior = 0;
    memset(gradient, 0, D * sizeof(real));
    if (j->centre)
        for (int64_t i = 0; i < D; i++) {
            const real z = q[i] - j->centre[i];
            gradient[i] = j->inverse[i] * z;
            prior += 0.5 * (double)gradient[i] * (double)z;
        }
    double loss = 0;
    for (int64_t first = 0; first < net->rows; first += block) {
        const int64_t rows = net->rows - first < block ? net->rows - first : block, whole = padded(rows);
        const real *x = j->columns_x + first;
        for (int64_t l = 0; l <= last; l++) {
            const room *m = rooms + l;
            const layer *a = net->layer + l;
            operands o = {q + a->weight, m->inputs, 1, l ? rooms[l - 1].output : x, l ? m->stride : x_stride,
                          a->bias < 0 ? NULL : q + a->bias, 0, m->output, m->stride, m->inputs};
            multiply(o, m->units, whole);
            activate_all(a->activation, m, whole);
        }
        loss += losses(j, rooms + last, first, rows);
        for (int64_t l = last; l >= 0; l--) {
            const room *m = rooms + l;
            const layer *a = net->layer + l;
            sensitivities s = {m->delta, l ? rooms[l - 1].output : x, m->units, m->inputs, m->stride, l ? m->stride : x_stride,
                               whole, ones, gradient + a->weight, a->bias < 0 ? NULL : gradient + a->bias};
            add_products(s);
            if (!l) break;
            operands o = {q + a->weight, 1, m->inputs, m->delta, m->stride, NULL, net->layer[l - 1].activation != IDENTITY,
                          rooms[l - 1].delta, m->stride, m->units};
            multiply(o, m->inputs, whole);
        }
    }
    *value = (real)(j->factor * loss + prior + j->constant);
}

/* An activation and its slope at each of `count` numbers, for tests; `count` is a multiple of a vector's length. */
void dense_activation(int64_t kind, int64_t count, const real *x, real *y, real *slope) {
    for (int64_t i = 0; i < count; i += LANES) {
        vec in, out, derivative;
        memcpy(&in, x + i, BYTES);
        switch (kind) {
        case TANH: out = activate(TANH, in, &derivative); break;
        case RELU: out = activate(RELU, in, &derivative); break;
        case SIGMOID: out = activate(SIGMOID, in, &derivative); break;
        case SOFTPLUS: out = activate(SOFTPLUS, in, &derivative); break;
        case SILU: out = activate(SILU, in, &derivative); break;
        default: out = in, derivative = all(1);
        }
        memcpy(y + i, &out, BYTES);
        memcpy(slope + i, &derivative, BYTES);
    }
}
