/* Vectors of four floats on a processor with SVE, whatever the length of its registers: those of simd_base.h, which
   takes powers of two from SVE's table there. */
#pragma once

#include "simd_i8mm.h"
