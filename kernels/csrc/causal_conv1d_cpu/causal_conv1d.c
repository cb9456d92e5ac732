/* The functions that Python calls. */
#include "conv.h"

EXPORT_LIBRARY(CONV_KERNELS)
