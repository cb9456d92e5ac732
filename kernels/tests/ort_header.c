/* Compiles where the lists of ort_entries.h agree with ONNX Runtime's own header. */
#include <onnxruntime_c_api.h>
#include <stddef.h>

#include "ort_entries.h"

#define SAME_TYPE(from, member, result, parameters) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(((from *)0)->member), result(*) parameters), #member)

#define CHECK_ENTRY(number, result, name, parameters)                                        \
    _Static_assert(offsetof(OrtApi, name) == (number) * sizeof(void *), "number of " #name); \
    SAME_TYPE(OrtApi, name, result, parameters);
ORT_ENTRIES(CHECK_ENTRY)

#define PLACE(result, name, parameters) PLACE_##name,
enum { PLACE_version, ORT_OPERATOR(PLACE) };

#define CHECK_MEMBER(result, name, parameters)                                                       \
    _Static_assert(offsetof(OrtCustomOp, name) == PLACE_##name * sizeof(void *), "place of " #name); \
    SAME_TYPE(OrtCustomOp, name, result, parameters);
ORT_OPERATOR(CHECK_MEMBER)

#define CHECK_CONSTANT(name, value) _Static_assert((name) == (value), #name);
ORT_CONSTANTS(CHECK_CONSTANT)

_Static_assert(offsetof(OrtApiBase, GetApi) == 0 && offsetof(OrtApiBase, GetVersionString) == sizeof(void *), "base");
_Static_assert(ORT_VERSION <= ORT_API_VERSION, "the header is older than the interface that the library asks for");
