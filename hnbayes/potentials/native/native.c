/* All that the package has in C, as one library with one set of threads. */
#include "points.h"

#include "points.c"
#include "dense.c"
#include "trees.c"
