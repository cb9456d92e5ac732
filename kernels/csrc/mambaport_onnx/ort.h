/* ONNX Runtime's C interface, as far as ort_entries.h lists it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "ort_entries.h"

#define ORT_CONSTANT(name, value) name = value,
enum { ORT_CONSTANTS(ORT_CONSTANT) };
#undef ORT_CONSTANT

/* Enumerations of the interface, each as large as a C enumeration without negative members. */
typedef unsigned OrtErrorCode, ONNXTensorElementDataType, OrtOpAttrType, OrtCustomOpInputOutputCharacteristic;
typedef int OrtMemType;

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtOpAttr OrtOpAttr;
typedef struct OrtCustomOp OrtCustomOp;

typedef struct OrtApi {
    void (*first)(void); /* of as many as the version of the interface has */
} OrtApi;

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version); /* NULL for a version that this ONNX Runtime does not have */
    const char *(*GetVersionString)(void);
} OrtApiBase;

struct OrtCustomOp {
    uint32_t version;
#define ORT_MEMBER(result, name, parameters) result(*name) parameters;
    ORT_OPERATOR(ORT_MEMBER)
#undef ORT_MEMBER
};

#define ORT_TYPE(number, result, name, parameters) typedef result(*ort_##name) parameters;
ORT_ENTRIES(ORT_TYPE)
#undef ORT_TYPE
#define ORT_NUMBER(number, result, name, parameters) ORT_ENTRY_##name = number,
enum { ORT_ENTRIES(ORT_NUMBER) };
#undef ORT_NUMBER

/* The function `name` of a table. */
#define ORT(api, name) ((ort_##name)((void (*const *)(void))(api))[ORT_ENTRY_##name])
