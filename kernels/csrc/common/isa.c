#include "isa.h"

#include "kernel.h"

#if defined __x86_64__
#include <cpuid.h>

/* __builtin_cpu_supports needs a runtime library that zig does not link, so cpuid is read here. */
static enum isa detect(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return ISA_base;
    const unsigned needed = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; /* FMA, OSXSAVE, AVX, F16C */
    if ((c & needed) != needed) return ISA_base;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* which registers the operating system saves */
    if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5)) return ISA_base;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((low & 0xe0) != 0xe0 || (b & avx512) != avx512) return ISA_avx2;
    return c & 1u << 11 ? ISA_vnni : ISA_avx512;
}
#elif defined __aarch64__
#include <sys/auxv.h>

/* Linux's names of what the processor has, as numbers: the headers of old systems lack the newer names. */
enum {
    HWCAP_FP16_SCALAR = 1 << 9,
    HWCAP_FP16_VECTOR = 1 << 10,
    HWCAP_DOT_PRODUCT = 1 << 20,
    HWCAP_SCALABLE_VECTORS = 1 << 22,
    HWCAP2_INT8_PRODUCT = 1 << 13,
    HWCAP2_BFLOAT16 = 1 << 14,
};

static enum isa detect(void) {
    const unsigned long dotprod = HWCAP_FP16_SCALAR | HWCAP_FP16_VECTOR | HWCAP_DOT_PRODUCT;
    const unsigned long i8mm = HWCAP2_INT8_PRODUCT | HWCAP2_BFLOAT16;
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    if ((first & dotprod) != dotprod) return ISA_base;
    if ((second & i8mm) != i8mm) return ISA_dotprod;
    return first & HWCAP_SCALABLE_VECTORS ? ISA_sve : ISA_i8mm;
}
#else
static enum isa detect(void) { return ISA_base; }
#endif

enum isa chosen_isa = ISA_base;

/* The best instruction set that this processor and its operating system have, as a place in INSTRUCTION_SETS. */
EXPORT int best_instruction_set(void) { return (int)detect(); }

/* Chooses the instruction set of all later calls; `isa` must be at most what best_instruction_set returns. */
EXPORT void use_instruction_set(int isa) { chosen_isa = (enum isa)isa; }
