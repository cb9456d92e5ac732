/* Instruction sets that each kernel is compiled for, and the choice of one at run time. */
#pragma once

/* In rising order: a processor that has one of them has all before it. `base` is what the whole library is compiled
   for: NEON on aarch64, SSE2 on x86-64. */
#define INSTRUCTION_SETS(NAME) NAME(base) NAME(avx2) NAME(avx512)

#define ISA_ENUMERATOR(name) ISA_##name,
enum isa { INSTRUCTION_SETS(ISA_ENUMERATOR) };
#undef ISA_ENUMERATOR

/* The instruction set that all kernels of this library run on: `base` until use_instruction_set is called. */
extern enum isa chosen_isa;

/* Calls function_avx512, function_avx2 or function_base. */
#if defined __x86_64__
#define CHOSEN_ISA(function, args)                      \
    (chosen_isa == ISA_avx512 ? function##_avx512(args) \
     : chosen_isa == ISA_avx2 ? function##_avx2(args)   \
                              : function##_base(args))
#else
#define CHOSEN_ISA(function, args) function##_base(args)
#endif
