/* Vectors of four floats on a processor with bfloat16 and int8 matrix products, such as Neoverse N2: those of
   simd_base.h, which rounds to bfloat16 in one instruction there. */
#pragma once

#include "simd_dotprod.h"
