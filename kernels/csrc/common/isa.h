#pragma once

/* Instruction sets that a kernel is compiled for; a higher one is tried first. */
enum isa { ISA_BASE, ISA_AVX2, ISA_AVX512 };

/* The best that this processor and its system have. KERNEL_ISA=base or avx2 in the environment asks for less. */
enum isa isa_available(void);

/* Calls function_avx512, function_avx2 or function_base. */
#if defined __x86_64__
#define BEST_ISA(function, args)                                   \
    (isa_available() == ISA_AVX512 ? function##_avx512(args)       \
     : isa_available() == ISA_AVX2 ? function##_avx2(args)         \
                                   : function##_base(args))
#else
#define BEST_ISA(function, args) function##_base(args)
#endif
