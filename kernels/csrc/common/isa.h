/* Instruction sets that kernels are compiled for, and the choice of one at run time.

   On x86-64 every operator is compiled for every set up to avx512. On aarch64 the vectors of all sets have four lanes,
   so an operator is compiled for the sets of which it uses an instruction, as on x86-64 for vnni (OPERATORS in
   mambaport_build/libraries.py), and a call goes to the best of these that is at most the chosen set. On aarch64 all
   that is compiled for a set above base stands in an ELF section of its own, mambaport_dotprod for example, and is
   called after a comparison with chosen_isa. */
#pragma once

/* In rising order: a processor that has one of them has all before it. `base` is what the whole library is compiled
   for: NEON on aarch64, SSE2 on x86-64. */
#if defined __aarch64__
#define INSTRUCTION_SETS(NAME) NAME(base) NAME(dotprod) NAME(i8mm) NAME(sve)
#else
#define INSTRUCTION_SETS(NAME) NAME(base) NAME(avx2) NAME(avx512) NAME(vnni)
#endif

#define ISA_ENUMERATOR(name) ISA_##name,
enum isa { INSTRUCTION_SETS(ISA_ENUMERATOR) };
#undef ISA_ENUMERATOR

/* The instruction set that all kernels of this library run on: `base` until use_instruction_set is called. */
extern enum isa chosen_isa;

/* Declares FUNCTION_base and the function of each other set, and calls the one that is chosen. Where an operator is not
   compiled for a set, the address of the function is NULL. */
#define MAYBE_COMPILED __attribute__((weak, visibility("hidden")))
#if defined __aarch64__
#define DECLARE_FOR_SETS(function, parameter)         \
    int function##_base(parameter);                   \
    MAYBE_COMPILED int function##_dotprod(parameter); \
    MAYBE_COMPILED int function##_i8mm(parameter);    \
    MAYBE_COMPILED int function##_sve(parameter);
#define CHOSEN_ISA(function, args)                                                \
    (chosen_isa >= ISA_sve && function##_sve           ? function##_sve(args)     \
     : chosen_isa >= ISA_i8mm && function##_i8mm       ? function##_i8mm(args)    \
     : chosen_isa >= ISA_dotprod && function##_dotprod ? function##_dotprod(args) \
                                                       : function##_base(args))
#else
#define DECLARE_FOR_SETS(function, parameter) \
    int function##_base(parameter);           \
    int function##_avx2(parameter);           \
    int function##_avx512(parameter);         \
    MAYBE_COMPILED int function##_vnni(parameter);
#if defined __x86_64__
#define CHOSEN_ISA(function, args)                                       \
    (chosen_isa >= ISA_vnni && function##_vnni ? function##_vnni(args)   \
     : chosen_isa >= ISA_avx512                ? function##_avx512(args) \
     : chosen_isa == ISA_avx2                  ? function##_avx2(args)   \
                                               : function##_base(args))
#else
#define CHOSEN_ISA(function, args) function##_base(args)
#endif
#endif
