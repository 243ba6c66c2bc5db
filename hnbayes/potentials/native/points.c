/* U and its gradient at the positions of all chains. */

typedef struct {
    point at;
    const void *context;
    int64_t dimension;
    const real *q;  /* (chains, dimension) */
    real *gradient; /* (chains, dimension) */
    real *value;    /* (chains,) */
} batch;

/* The task of a thread: one chain. */
static void one_point(const void *context, int64_t chain, void *memory) {
    const batch *b = context;
    if (memory)
        b->at(b->context, b->q + chain * b->dimension, b->gradient + chain * b->dimension, b->value + chain, memory);
    else
        b->value[chain] = NAN;
}

void evaluate_points(point at, const void *context, int64_t bytes, int64_t dimension, int64_t chains, int64_t threads,
                     const real *q, real *gradient, real *value) {
    const batch b = {at, context, dimension, q, gradient, value};
    share(one_point, &b, bytes, chains, threads);
}
