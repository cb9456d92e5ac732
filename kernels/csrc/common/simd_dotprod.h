/* Vectors of four floats on a processor with half-precision arithmetic and int8 dot products, such as Cortex-A76: those
   of simd_base.h. Products of int8 are in the operators that use them. */
#pragma once

#include "simd_base.h"
