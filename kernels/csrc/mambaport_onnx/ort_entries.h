/* The part of ONNX Runtime's C interface that this library uses. The interface is a table of functions, to which each
   release of ONNX Runtime appends entries, so that a number keeps its meaning. A test compares these lists with ONNX
   Runtime's own header, where a copy of the header is at hand. */
#pragma once

/* The version of the interface that the library asks for: that of ONNX Runtime 1.18. */
#define ORT_VERSION 18
#define ORT_OLDEST "1.18"

// clang-format off
/* ENTRY(number in the table, result, name, parameters). A function that returns an OrtStatus * returns NULL for
   success. */
#define ORT_ENTRIES(ENTRY) \
    ENTRY(0, OrtStatus *, CreateStatus, (OrtErrorCode code, const char *message)) \
    ENTRY(26, OrtStatus *, CreateCustomOpDomain, (const char *domain, OrtCustomOpDomain **out)) \
    ENTRY(27, OrtStatus *, CustomOpDomain_Add, (OrtCustomOpDomain *domain, const OrtCustomOp *op)) \
    ENTRY(28, OrtStatus *, AddCustomOpDomain, (OrtSessionOptions *options, OrtCustomOpDomain *domain)) \
    ENTRY(51, OrtStatus *, GetTensorMutableData, (OrtValue *value, void **out)) \
    ENTRY(57, OrtStatus *, CreateTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo **out)) \
    ENTRY(58, OrtStatus *, SetTensorElementType, (OrtTensorTypeAndShapeInfo *info, ONNXTensorElementDataType type)) \
    ENTRY(59, OrtStatus *, SetDimensions, (OrtTensorTypeAndShapeInfo *info, const int64_t *lengths, size_t count)) \
    ENTRY(61, OrtStatus *, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo *info, size_t *out)) \
    ENTRY(62, OrtStatus *, GetDimensions, (const OrtTensorTypeAndShapeInfo *info, int64_t *lengths, size_t count)) \
    ENTRY(63, OrtStatus *, GetSymbolicDimensions, \
          (const OrtTensorTypeAndShapeInfo *info, const char **names, size_t count)) \
    ENTRY(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *value, OrtTensorTypeAndShapeInfo **out)) \
    ENTRY(85, OrtStatus *, KernelInfoGetAttribute_float, (const OrtKernelInfo *info, const char *name, float *out)) \
    ENTRY(86, OrtStatus *, KernelInfoGetAttribute_int64, (const OrtKernelInfo *info, const char *name, int64_t *out)) \
    ENTRY(88, OrtStatus *, KernelContext_GetInputCount, (const OrtKernelContext *context, size_t *out)) \
    ENTRY(89, OrtStatus *, KernelContext_GetOutputCount, (const OrtKernelContext *context, size_t *out)) \
    ENTRY(90, OrtStatus *, KernelContext_GetInput, \
          (const OrtKernelContext *context, size_t index, const OrtValue **out)) \
    ENTRY(91, OrtStatus *, KernelContext_GetOutput, \
          (OrtKernelContext *context, size_t index, const int64_t *lengths, size_t count, OrtValue **out)) \
    ENTRY(93, void, ReleaseStatus, (OrtStatus *status)) \
    ENTRY(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo *info)) \
    ENTRY(101, void, ReleaseCustomOpDomain, (OrtCustomOpDomain *domain)) \
    ENTRY(267, OrtStatus *, ShapeInferContext_GetInputCount, (const OrtShapeInferContext *context, size_t *out)) \
    ENTRY(268, OrtStatus *, ShapeInferContext_GetInputTypeShape, \
          (const OrtShapeInferContext *context, size_t index, OrtTensorTypeAndShapeInfo **out)) \
    ENTRY(269, OrtStatus *, ShapeInferContext_GetAttribute, \
          (const OrtShapeInferContext *context, const char *name, const OrtOpAttr **out)) \
    ENTRY(270, OrtStatus *, ShapeInferContext_SetOutputTypeShape, \
          (const OrtShapeInferContext *context, size_t index, const OrtTensorTypeAndShapeInfo *info)) \
    ENTRY(271, OrtStatus *, SetSymbolicDimensions, \
          (OrtTensorTypeAndShapeInfo *info, const char **names, size_t count)) \
    ENTRY(272, OrtStatus *, ReadOpAttr, \
          (const OrtOpAttr *attribute, OrtOpAttrType type, void *data, size_t size, size_t *out)) \
    ENTRY(274, OrtStatus *, KernelContext_ParallelFor, \
          (const OrtKernelContext *context, void (*task)(void *, size_t), size_t count, size_t batches, void *data))

/* MEMBER(result, name, parameters): the functions of an operator, which follow its version. */
#define ORT_OPERATOR(MEMBER) \
    MEMBER(void *, CreateKernel, (const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info)) \
    MEMBER(const char *, GetName, (const OrtCustomOp *op)) \
    MEMBER(const char *, GetExecutionProviderType, (const OrtCustomOp *op)) \
    MEMBER(ONNXTensorElementDataType, GetInputType, (const OrtCustomOp *op, size_t index)) \
    MEMBER(size_t, GetInputTypeCount, (const OrtCustomOp *op)) \
    MEMBER(ONNXTensorElementDataType, GetOutputType, (const OrtCustomOp *op, size_t index)) \
    MEMBER(size_t, GetOutputTypeCount, (const OrtCustomOp *op)) \
    MEMBER(void, KernelCompute, (void *kernel, OrtKernelContext *context)) \
    MEMBER(void, KernelDestroy, (void *kernel)) \
    MEMBER(OrtCustomOpInputOutputCharacteristic, GetInputCharacteristic, (const OrtCustomOp *op, size_t index)) \
    MEMBER(OrtCustomOpInputOutputCharacteristic, GetOutputCharacteristic, (const OrtCustomOp *op, size_t index)) \
    MEMBER(OrtMemType, GetInputMemoryType, (const OrtCustomOp *op, size_t index)) \
    MEMBER(int, GetVariadicInputMinArity, (const OrtCustomOp *op)) \
    MEMBER(int, GetVariadicInputHomogeneity, (const OrtCustomOp *op)) \
    MEMBER(int, GetVariadicOutputMinArity, (const OrtCustomOp *op)) \
    MEMBER(int, GetVariadicOutputHomogeneity, (const OrtCustomOp *op)) \
    MEMBER(OrtStatus *, CreateKernelV2, \
           (const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel)) \
    MEMBER(OrtStatus *, KernelComputeV2, (void *kernel, OrtKernelContext *context)) \
    MEMBER(OrtStatus *, InferOutputShapeFn, (const OrtCustomOp *op, OrtShapeInferContext *context)) \
    MEMBER(int, GetStartVersion, (const OrtCustomOp *op)) \
    MEMBER(int, GetEndVersion, (const OrtCustomOp *op)) \
    MEMBER(size_t, GetMayInplace, (int **inputs, int **outputs)) \
    MEMBER(void, ReleaseMayInplace, (int *inputs, int *outputs)) \
    MEMBER(size_t, GetAliasMap, (int **inputs, int **outputs)) \
    MEMBER(void, ReleaseAliasMap, (int *inputs, int *outputs))

/* CONSTANT(name, value) */
#define ORT_CONSTANTS(CONSTANT) \
    CONSTANT(ORT_FAIL, 1) \
    CONSTANT(ORT_INVALID_ARGUMENT, 2) \
    CONSTANT(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 1) \
    CONSTANT(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 3) \
    CONSTANT(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 6) \
    CONSTANT(INPUT_OUTPUT_REQUIRED, 0) \
    CONSTANT(INPUT_OUTPUT_OPTIONAL, 1) \
    CONSTANT(OrtMemTypeDefault, 0) \
    CONSTANT(ORT_OP_ATTR_INT, 1) \
    CONSTANT(ORT_OP_ATTR_FLOAT, 3)
// clang-format on
