/* From here to simd_end.h, functions are compiled for SIMD_TARGET. Other functions of the library must not be. */
#define INLINE static inline __attribute__((always_inline, unused))
#if defined __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined SIMD_TARGET
#define PRAGMA(text) _Pragma(#text)
#if defined __clang__
#define TARGET_PRAGMA(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#else
#define TARGET_PRAGMA(features) PRAGMA(GCC target(features))
#endif
TARGET_PRAGMA(SIMD_TARGET)
#endif
