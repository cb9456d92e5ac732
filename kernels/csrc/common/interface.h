/* The interface between C and Python, described once per side and compared when the library is loaded.

   A kernel takes one argument, a pointer to a struct. The fields of the struct are a list, FIELDS(FIELD), which expands
   to FIELD(kind, name) for each field. From the list come the members of the struct and one line of the text that
   `kernel_interface` returns; Python derives the same line from its own declaration of the kernel. */
#pragma once

#include "isa.h"
#include "kernel.h"

/* Kinds of fields. Each is a multiple of 8 bytes, so that a struct has no padding. */
typedef int64_t field_integer;
typedef int64_t field_flag; /* 0 or 1 */
typedef double field_real;
typedef struct tensor field_tensor;   /* a tensor that may be absent */
typedef const int32_t *field_indices; /* contiguous, or NULL */
typedef float *field_floats;          /* contiguous, or NULL */
typedef const int8_t *field_bytes;    /* contiguous, or NULL */

#define MEMBER(kind, name) field_##kind name;
#define SIZE_OF_FIELD(kind, name) +sizeof(field_##kind)
#define DESCRIBE_FIELD(kind, name) " " #kind " " #name ","

/* What KERNELS(KERNEL) of a library expands to: KERNEL(exported, function, args, FIELDS) for each kernel, where
   `exported` is the name that Python calls, `function` the implementation, which each instruction set has under a name
   with its suffix, and `struct args` the argument with the fields FIELDS. */
#define DECLARE_KERNEL(exported, function, args, FIELDS)                                                            \
    _Static_assert(sizeof(struct args) == 0 FIELDS(SIZE_OF_FIELD), "struct " #args " has padding or other fields"); \
    DECLARE_FOR_SETS(function, const struct args *a)
#define EXPORT_KERNEL(exported, function, args, FIELDS) \
    EXPORT int exported(const struct args *a) { return CHOSEN_ISA(function, a); }
#define DESCRIBE_KERNEL(exported, function, args, FIELDS) #exported ":" FIELDS(DESCRIBE_FIELD) "\n"

#define DESCRIBE_NAME(name) " " #name ","
// clang-format off
#define DESCRIBE_COMMON \
    "tensor: address data, integer dtype, integer stride[4],\n" \
    "dtypes:" DTYPES(DESCRIBE_NAME) "\n" \
    "instruction_sets:" INSTRUCTION_SETS(DESCRIBE_NAME) "\n"
// clang-format on

/* Defines the exported functions of a library: its kernels, and the text that describes them. */
#define EXPORT_LIBRARY(KERNELS) \
    KERNELS(EXPORT_KERNEL)      \
    EXPORT const char *kernel_interface(void) { return DESCRIBE_COMMON KERNELS(DESCRIBE_KERNEL); }
