/* Vectors of sixteen floats on a processor with dot products of int8: those of simd_avx512.h. */
#pragma once

#include "simd_avx512.h"
