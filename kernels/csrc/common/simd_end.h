#if defined SIMD_TARGET && defined __clang__
_Pragma("clang attribute pop")
#endif
