#ifndef POINTS_H
#define POINTS_H
/* Points: a compiled U and its gradient at one position, and their evaluation for all chains by several threads. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "threads.h"
#include "vectors.h"

/* `memory` starts at a multiple of 64, and anything may be in it. */
typedef void (*point)(const void *context, const real *q, real *gradient, real *value, void *memory);
#endif
