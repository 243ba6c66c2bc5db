/* The loss of a stack of dense layers on all rows of a data set, with its gradient, for several weight vectors ("chains").
 *
 * Compiled once for each type of number (-DDOUBLE for double). A chain is computed by one thread, always in the same
 * order, so its result depends neither on the other chains nor on the number of threads.
 *
 * Rows go through the network in blocks whose activations stay in the cache. Units are the contiguous dimension, padded
 * to whole vectors. Weights are repacked for every call, because they change with every call. Products are those of
 * products.h.
 *
 * A layer of very few units ("narrow", as the output of a regression) would leave most of a vector empty; its products
 * have the layer's inputs as the contiguous dimension instead.
 */
#include "products.h"

#define BLOCK 32 /* rows of data at a time */

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
    const real *x;       /* (rows, inputs) */
    const void *y;       /* (rows, units of the last layer), or int64 labels (rows,) */
    const real *centre;  /* of a normal prior, (dimension,); NULL without one */
    const real *inverse; /* its inverse variances */
    double factor;       /* U = factor * loss + prior + constant */
    double constant;
} problem;

/* ---- one chain ---- */

/* A layer's room: packed weights, sums of gradients, and a block of activations, slopes and sensitivities. */
typedef struct {
    int64_t inputs, units, in_stride, stride, narrow;
    real *rows;    /* weights (units, in_stride) */
    real *columns; /* the same transposed, (inputs, stride), of a layer that isn't narrow */
    real *bias, *bias_gradient; /* (stride,) */
    real *weight_gradient;      /* like `rows` if narrow, like `columns` otherwise */
    real *output, *slope, *delta; /* (BLOCK, stride) */
} room;

/* Lays rooms out from `memory` on (both NULL to count only); returns how many numbers they take. */
static int64_t furnish(const network *net, room *rooms, real *memory) {
    int64_t used = BLOCK * padded(net->inputs), inputs = net->inputs;
    for (int64_t l = 0; l < net->layers; l++) {
        room unused, *m = rooms ? rooms + l : &unused;
        int64_t units = net->layer[l].units, stride = padded(units), in_stride = padded(inputs);
        int64_t sizes[] = {units * in_stride, inputs * stride, stride, stride, 0, BLOCK * stride, BLOCK * stride, BLOCK * stride};
        real **places[] = {&m->rows, &m->columns, &m->bias, &m->bias_gradient, &m->weight_gradient, &m->output, &m->slope, &m->delta};
        m->inputs = inputs, m->units = units, m->in_stride = in_stride, m->stride = stride;
        m->narrow = 4 * units <= LANES || units == 1;
        sizes[4] = m->narrow ? sizes[0] : sizes[1];
        for (int i = 0; i < 8; i++) {
            *places[i] = memory ? memory + used : NULL;
            used += padded(sizes[i]);
        }
        inputs = units;
    }
    return used;
}

static void pack(const network *net, const room *rooms, const real *q) {
    for (int64_t l = 0; l < net->layers; l++) {
        const room *m = rooms + l;
        const real *w = q + net->layer[l].weight;
        for (int64_t h = 0; h < m->units; h++)
            for (int64_t k = 0; k < m->inputs; k++) {
                m->rows[h * m->in_stride + k] = w[h * m->inputs + k];
                if (!m->narrow) m->columns[k * m->stride + h] = w[h * m->inputs + k];
            }
        if (net->layer[l].bias >= 0) memcpy(m->bias, q + net->layer[l].bias, m->units * sizeof(real));
    }
}

static void forward(const room *m, int64_t activation, const real *input, int64_t input_stride, int64_t rows) {
    if (m->narrow) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t h = 0; h < m->units; h++) {
                vec sum = all(0);
                for (int64_t k = 0; k < m->in_stride; k += LANES)
                    sum += *(const vec *)(input + r * input_stride + k) * *(const vec *)(m->rows + h * m->in_stride + k);
                m->output[r * m->stride + h] = sum_lanes(sum) + m->bias[h];
            }
    } else {
        operands o = {input, input_stride, 1, m->columns, m->stride, m->bias, 0, m->output, m->stride, m->inputs};
        multiply(o, rows, m->stride);
    }
    vec *z = (vec *)m->output, *slope = (vec *)m->slope;
    int64_t vectors = rows * m->stride / LANES;
#define EACH(kind)                                                                       \
    case kind:                                                                           \
        for (int64_t i = 0; i < vectors; i++) z[i] = activate(kind, z[i], slope + i);    \
        break;
    switch (activation) {
        EACH(TANH) EACH(RELU) EACH(SIGMOID) EACH(SOFTPLUS) EACH(SILU)
    }
}

static void backward(const room *m, int64_t activation, const real *input, int64_t input_stride, int64_t rows, real *below) {
    if (activation != IDENTITY) {
        vec *delta = (vec *)m->delta, *slope = (vec *)m->slope;
        for (int64_t i = 0; i < rows * m->stride / LANES; i++) delta[i] *= slope[i];
    }
    for (int64_t h = 0; h < m->stride; h += LANES) {
        vec sum = *(vec *)(m->bias_gradient + h);
        for (int64_t r = 0; r < rows; r++) sum += *(vec *)(m->delta + r * m->stride + h);
        *(vec *)(m->bias_gradient + h) = sum;
    }
    real *g = m->weight_gradient;
    if (m->narrow) {
        operands o = {m->delta, 1, m->stride, input, input_stride, g, m->in_stride, g, m->in_stride, rows};
        multiply(o, m->units, m->in_stride);
    } else {
        operands o = {input, 1, input_stride, m->delta, m->stride, g, m->stride, g, m->stride, rows};
        multiply(o, m->inputs, m->stride);
    }
    if (below) {
        operands o = {m->delta, m->stride, 1, m->rows, m->in_stride, NULL, 0, below, m->in_stride, m->units};
        multiply(o, rows, m->in_stride);
    }
}

/* The loss of a block of rows from the outputs of the last layer; its derivative goes to `delta`. */
static double losses(const problem *j, const room *m, int64_t first, int64_t rows) {
    const int64_t units = m->units;
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) {
        const real *z = m->output + r * m->stride;
        real *delta = m->delta + r * m->stride;
        if (j->net->loss == SQUARES) {
            const real *y = (const real *)j->y + (first + r) * units;
            for (int64_t h = 0; h < units; h++) {
                delta[h] = z[h] - y[h];
                sum += 0.5 * (double)delta[h] * (double)delta[h];
            }
        } else if (j->net->loss == BERNOULLI) {
            const real *y = (const real *)j->y + (first + r) * units;
            for (int64_t k = 0; k < m->stride; k += LANES) {
                vec x = *(const vec *)(z + k), upper = softplus(x);
                *(vec *)(delta + k) = sigmoid(x);
                for (int64_t h = 0; h < LANES && k + h < units; h++) {
                    sum += (double)upper[h] - (double)y[k + h] * (double)z[k + h];
                    delta[k + h] -= y[k + h];
                }
            }
            for (int64_t h = units; h < m->stride; h++) delta[h] = 0;
        } else {
            const int64_t label = ((const int64_t *)j->y)[first + r];
            real top = z[0], total = 0;
            for (int64_t h = 1; h < units; h++) top = z[h] > top ? z[h] : top;
            for (int64_t k = 0; k < m->stride; k += LANES)
                *(vec *)(delta + k) = exp_negative(*(const vec *)(z + k) - all(top));
            for (int64_t h = units; h < m->stride; h++) delta[h] = 0;
            for (int64_t h = 0; h < m->stride; h++) total += delta[h];
            for (int64_t k = 0; k < m->stride; k += LANES) *(vec *)(delta + k) *= all(1 / total);
            delta[label] -= 1;
            sum += log((double)total) + (double)top - (double)z[label];
        }
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
    real *block = (real *)((char *)memory + bytes_of_rooms(net));
    furnish(net, rooms, block);
    const int64_t last = net->layers - 1, D = net->dimension;
    for (int64_t l = 0; l <= last; l++) {
        const room *m = rooms + l;
        memset(m->weight_gradient, 0, (m->narrow ? m->units * m->in_stride : m->inputs * m->stride) * sizeof(real));
        memset(m->bias_gradient, 0, m->stride * sizeof(real));
    }
    pack(net, rooms, q);
    double loss = 0;
    for (int64_t first = 0; first < net->rows; first += BLOCK) {
        const int64_t rows = net->rows - first < BLOCK ? net->rows - first : BLOCK;
        const real *x = j->x + first * net->inputs;
        int64_t x_stride = net->inputs;
        if (rooms[0].narrow) { /* whole vectors of inputs are read, so they need padding too */
            x_stride = rooms[0].in_stride;
            for (int64_t r = 0; r < rows; r++) memcpy(block + r * x_stride, x + r * net->inputs, net->inputs * sizeof(real));
            x = block;
        }
        for (int64_t l = 0; l <= last; l++)
            forward(rooms + l, net->layer[l].activation, l ? rooms[l - 1].output : x, l ? rooms[l - 1].stride : x_stride, rows);
        loss += losses(j, rooms + last, first, rows);
        for (int64_t l = last; l >= 0; l--)
            backward(rooms + l, net->layer[l].activation, l ? rooms[l - 1].output : x, l ? rooms[l - 1].stride : x_stride,
                     rows, l ? rooms[l - 1].delta : NULL);
    }
    double prior = 0;
    memset(gradient, 0, D * sizeof(real));
    if (j->centre)
        for (int64_t i = 0; i < D; i++) {
            const real z = q[i] - j->centre[i];
            gradient[i] = j->inverse[i] * z;
            prior += 0.5 * (double)gradient[i] * (double)z;
        }
    const real factor = (real)j->factor;
    for (int64_t l = 0; l <= last; l++) {
        const room *m = rooms + l;
        real *w = gradient + net->layer[l].weight;
        const int64_t by_unit = m->narrow ? m->in_stride : 1, by_input = m->narrow ? 1 : m->stride;
        for (int64_t h = 0; h < m->units; h++)
            for (int64_t k = 0; k < m->inputs; k++)
                w[h * m->inputs + k] += factor * m->weight_gradient[h * by_unit + k * by_input];
        if (net->layer[l].bias >= 0)
            for (int64_t h = 0; h < m->units; h++) gradient[net->layer[l].bias + h] += factor * m->bias_gradient[h];
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
