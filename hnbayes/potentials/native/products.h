#ifndef PRODUCTS_H
#define PRODUCTS_H
/* Matrix products. Each is made of the same tile of TILE_ROWS rows x TILE_VECTORS vectors, kept in registers; only the
 * strides differ.
 */
#include <stdint.h>
#include <string.h>

#include "vectors.h"

/* c = start + a b, times c if it `scales`: c is (rows, vectors), b (depth, vectors); element (i, j) of a is a[i * ai + j * aj]. */
typedef struct {
    const real *a;
    int64_t ai, aj;
    const real *b;
    int64_t b_stride;
    const real *start; /* (rows,); NULL is 0 */
    int scales;
    real *c;
    int64_t c_stride, depth;
} operands;

/* R and V are constants where it is inlined, so the sums live in registers. */
INLINE void tile(const int R, const int V, const operands *o, int64_t row, int64_t column) {
    vec sum[TILE_ROWS][TILE_VECTORS];
    const real *a = o->a + row * o->ai, *b = o->b + column;
    const int64_t ai = o->ai, aj = o->aj, b_stride = o->b_stride;
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sum[i][v] = all(o->start ? o->start[row + i] : 0);
    for (int64_t j = o->depth; j > 0; j--, a += aj, b += b_stride) {
        vec right[TILE_VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            right[v] = ((const vec *)b)[v];
            KEEP(right[v]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < R; i++) {
            const vec left = all(a[i * ai]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sum[i][v] += left * right[v];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
        vec *c = (vec *)(o->c + (row + i) * o->c_stride + column);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            if (o->scales) sum[i][v] *= c[v];
            c[v] = sum[i][v];
        }
    }
}

INLINE void tiles(const int V, const operands *o, int64_t rows, int64_t column) {
    int64_t row = 0;
    for (; row + TILE_ROWS <= rows; row += TILE_ROWS) tile(TILE_ROWS, V, o, row, column);
    for (; row + 2 <= rows; row += 2) tile(2, V, o, row, column);
    if (row < rows) tile(1, V, o, row, column);
}

static void multiply(operands o, int64_t rows, int64_t columns) {
    int64_t column = 0;
    for (; column + TILE_VECTORS * LANES <= columns; column += TILE_VECTORS * LANES) tiles(TILE_VECTORS, &o, rows, column);
    switch ((columns - column) / LANES) {
    case 1: tiles(1, &o, rows, column); break;
#if TILE_VECTORS > 2
    case 2: tiles(2, &o, rows, column); break;
    case 3: tiles(3, &o, rows, column); break;
#endif
    }
}

static int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* c = a x: element (i, j) of a is a[i * ai + j * aj]. */
static void multiply_vector(int64_t rows, int64_t depth, const real *restrict a, int64_t ai, int64_t aj,
                            const real *restrict x, int64_t xj, real *restrict c, int64_t ci) {
    if (aj == 1 && xj == 1 && (ai != 1 || depth >= rows)) {
        for (int64_t i = 0; i < rows; i++) {
            const real *row = a + i * ai;
            real sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < depth; j++) sum += row[j] * x[j];
            c[i * ci] = sum;
        }
    } else if (ai == 1 && ci == 1) {
        for (int64_t i = 0; i < rows; i++) c[i] = 0;
        int64_t j = 0;
        for (; j + 4 <= depth; j += 4) {
            const real *a0 = a + j * aj, *a1 = a0 + aj, *a2 = a1 + aj, *a3 = a2 + aj;
            const real x0 = x[j * xj], x1 = x[(j + 1) * xj], x2 = x[(j + 2) * xj], x3 = x[(j + 3) * xj];
#pragma omp simd
            for (int64_t i = 0; i < rows; i++) c[i] += (a0[i] * x0 + a1[i] * x1) + (a2[i] * x2 + a3[i] * x3);
        }
        for (; j < depth; j++) {
            const real *a0 = a + j * aj, x0 = x[j * xj];
#pragma omp simd
            for (int64_t i = 0; i < rows; i++) c[i] += a0[i] * x0;
        }
    } else {
        for (int64_t i = 0; i < rows; i++) {
            real sum = 0;
            for (int64_t j = 0; j < depth; j++) sum += a[i * ai + j * aj] * x[j * xj];
            c[i * ci] = sum;
        }
    }
}

/* c = a b, of any strides: (rows, depth) times (depth, columns). `space` begins at a multiple of 64 and has room for
 * (depth + rows) * padded(columns) numbers, and for as many with rows and columns exchanged.
 */
static void product(int64_t rows, int64_t columns, int64_t depth, const real *a, int64_t ai, int64_t aj, const real *b,
                    int64_t bi, int64_t bj, real *c, int64_t ci, int64_t cj, real *space) {
    if (columns == 1) {
        multiply_vector(rows, depth, a, ai, aj, b, bi, c, ci);
    } else if (rows == 1) {
        multiply_vector(columns, depth, b, bj, bi, a, aj, c, cj);
    } else if (columns < rows && 2 * columns < LANES) { /* vectors would be nearly empty */
        product(columns, rows, depth, b, bj, bi, a, aj, ai, c, cj, ci, space);
    } else {
        const int64_t stride = padded(columns);
        real *right = space, *result = space + depth * stride;
        for (int64_t j = 0; j < depth; j++) {
            if (bj == 1)
                memcpy(right + j * stride, b + j * bi, columns * sizeof(real));
            else
                for (int64_t k = 0; k < columns; k++) right[j * stride + k] = b[j * bi + k * bj];
            for (int64_t k = columns; k < stride; k++) right[j * stride + k] = 0;
        }
        const operands o = {a, ai, aj, right, stride, NULL, 0, result, stride, depth};
        multiply(o, rows, stride);
        for (int64_t i = 0; i < rows; i++) {
            if (cj == 1)
                memcpy(c + i * ci, result + i * stride, columns * sizeof(real));
            else
                for (int64_t k = 0; k < columns; k++) c[i * ci + k * cj] = result[i * stride + k];
        }
    }
}
#endif
