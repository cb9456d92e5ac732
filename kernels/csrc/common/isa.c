#include "isa.h"

#include <stdlib.h>
#include <string.h>

#if defined __x86_64__
#include <cpuid.h>

/* Asked of the processor itself: the compilers' own helper is missing from one of the runtimes that we link. */
static enum isa detect(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return ISA_BASE;
    const unsigned needed = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; /* FMA, OSXSAVE, AVX, F16C */
    if ((c & needed) != needed) return ISA_BASE;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* which registers the system saves */
    if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5)) return ISA_BASE;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    return (low & 0xe0) == 0xe0 && (b & avx512) == avx512 ? ISA_AVX512 : ISA_AVX2;
}
#else
static enum isa detect(void) { return ISA_BASE; }
#endif

enum isa isa_available(void) {
    static int known = -1;
    if (known < 0) {
        const enum isa best = detect();
        const char *wish = getenv("KERNEL_ISA");
        enum isa wanted = best;
        if (wish && strcmp(wish, "base") == 0) wanted = ISA_BASE;
        if (wish && strcmp(wish, "avx2") == 0) wanted = ISA_AVX2;
        known = wanted < best ? wanted : best;
    }
    return (enum isa)known;
}
