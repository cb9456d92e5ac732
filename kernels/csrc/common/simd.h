/* The vectors of the instruction set that a file is compiled for. The build compiles each file of a folder operators/
   once for each instruction set of the target's architecture, with -DISA=base, -DISA=avx2, ... and the compiler's
   options for that set. */
#pragma once

#define INLINE static inline __attribute__((always_inline, unused))
/* A function of a header that not every file which includes the header calls. */
#define HELPER static __attribute__((unused))
#if defined __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* The name of an operator, compiled for this instruction set: norm_avx2. */
#define FOR_ISA(function) PASTED(function, ISA)
#define PASTED(function, isa) PASTED_(function, isa)
#define PASTED_(function, isa) function##_##isa

#define QUOTED(text) #text
#define SIMD_HEADER(isa) SIMD_HEADER_(isa)
#define SIMD_HEADER_(isa) QUOTED(simd_##isa.h)
#include SIMD_HEADER(ISA)
