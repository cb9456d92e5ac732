"""Small programs compiled for CPUs above a Raspberry Pi 4's Cortex-A72, each with something that it does not have."""

# ruff: noqa: E501
# ruff: noqa: E501

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """A source and the flags that make it need a newer CPU."""

    name: str
    march: str
    source: str
    flags: tuple[str, ...] = ()


HEAD = "#include <arm_neon.h>\n#include <arm_acle.h>\n#include <stdint.h>\n#include <stddef.h>\n"
CASES = (
    Case("lse counter", "armv8.1-a", "void f(int *p) { __atomic_fetch_add(p, 1, __ATOMIC_SEQ_CST); }"),
    Case("rdm by element", "armv8.1-a", "int16x8_t f(int16x8_t a, int16x8_t b, int16x4_t c) { return vqrdmlahq_lane_s16(a, b, c, 1); }"),
    Case("half arithmetic", "armv8.2-a+fp16", "_Float16 f(_Float16 a, _Float16 b) { return a * b + b; }"),
    Case("half from int", "armv8.2-a+fp16", "_Float16 f(int a) { return a; }"),
    Case("half by element", "armv8.2-a+fp16", "float16x8_t f(float16x8_t a, float16x8_t b) { return vmulq_laneq_f16(a, b, 3); }"),
    Case("dot product", "armv8.2-a+dotprod", "int32x4_t f(int32x4_t a, int8x16_t b, int8x16_t c) { return vdotq_s32(a, b, c); }"),
    Case("fhm by element", "armv8.2-a+fp16fml", "float32x4_t f(float32x4_t a, float16x8_t b, float16x8_t c) { return vfmlalq_laneq_low_f16(a, b, c, 2); }"),
    Case("pmull", "armv8-a+crypto", "poly128_t f(poly64_t a, poly64_t b) { return vmull_p64(a, b); }"),
    Case("aes", "armv8-a+crypto", "uint8x16_t f(uint8x16_t a, uint8x16_t b) { return vaeseq_u8(a, b); }"),
    Case("sha3", "armv8.2-a+sha3", "uint64x2_t f(uint64x2_t a, uint64x2_t b, uint64x2_t c) { return veor3q_u64(a, b, c); }"),
    Case("sha512", "armv8.2-a+sha3", "uint64x2_t f(uint64x2_t a, uint64x2_t b, uint64x2_t c) { return vsha512hq_u64(a, b, c); }"),
    Case("pac-ret", "armv8.3-a", "int g(int); int f(int a) { return g(a) + 1; }", ("-mbranch-protection=pac-ret",)),
    Case("acquire load", "armv8.3-a", "int f(int *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }"),
    Case("acquire load with offset", "armv8.4-a", "int f(int *p) { return __atomic_load_n(p + 3, __ATOMIC_ACQUIRE); }"),
    Case("complex", "armv8.3-a", "float32x4_t f(float32x4_t a, float32x4_t b, float32x4_t c) { return vcmlaq_f32(a, b, c); }"),
    Case("javascript conversion", "armv8.3-a", "int f(double a) { return __jcvt(a); }"),
    Case("frint32", "armv8.5-a", "float32x4_t f(float32x4_t a) { return vrnd32zq_f32(a); }"),
    Case("memory tagging", "armv8.5-a+memtag", "void *f(void *p) { return __arm_mte_create_random_tag(p, 1); }"),
    Case("bf16 by element", "armv8.6-a+bf16", "float32x4_t f(float32x4_t a, bfloat16x8_t b, bfloat16x8_t c) { return vbfdotq_laneq_f32(a, b, c, 1); }"),
    Case("usdot by element", "armv8.6-a+i8mm", "int32x4_t f(int32x4_t a, uint8x16_t b, int8x16_t c) { return vusdotq_laneq_s32(a, b, c, 1); }"),
    Case("i8mm", "armv8.6-a+i8mm", "int32x4_t f(int32x4_t a, int8x16_t b, int8x16_t c) { return vmmlaq_s32(a, b, c); }"),
    Case("sve", "armv8.2-a+sve", "void f(float *a, float b, int n) { for (int i = 0; i < n; i++) a[i] *= b; }"),
    Case("sve2", "armv9-a", "void f(int *a, int *b, int n) { for (int i = 0; i < n; i++) a[i] = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i]; }"),
    Case("mops", "armv8.8-a", "void f(char *a, const char *b, size_t n) { __builtin_memcpy(a, b, n); }"),
    Case("cssc popcount", "armv8.9-a", "int f(unsigned a) { return __builtin_popcount(a); }"),
    Case("sme", "armv9.2-a+sme", '__asm__("f: smstart sm\\n smstop sm\\n ret");'),
)  # fmt: skip
