/* The functions that Python calls. */
#include "kernels.h"

EXPORT_LIBRARY(KERNELS)
