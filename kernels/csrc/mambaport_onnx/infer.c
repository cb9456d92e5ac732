/* The shapes of an operator's outputs, from those of its inputs, while ONNX Runtime loads a model. */
#include "infer.h"

/* The attributes of the node, or their defaults. */
static void read_attributes(struct node *node, const OrtShapeInferContext *context) {
    const struct operation *const operation = node->operation;
    for (int i = 0; i < operation->attributes; i++) {
        const struct attribute *const attribute = &operation->attribute[i];
        const OrtOpAttr *found = NULL;
        int64_t integer = 0;
        float real = 0.0f;
        size_t size = 0;
        node->attribute[i] = attribute->value;
        OrtStatus *status = ORT(node->api, ShapeInferContext_GetAttribute)(context, attribute->name, &found);
        if (!status)
            status = attribute->is_float
                         ? ORT(node->api, ReadOpAttr)(found, ORT_OP_ATTR_FLOAT, &real, sizeof real, &size)
                         : ORT(node->api, ReadOpAttr)(found, ORT_OP_ATTR_INT, &integer, sizeof integer, &size);
        if (status) ORT(node->api, ReleaseStatus)(status); /* absent, or of another type, which CreateKernel refuses */
        else node->attribute[i] = attribute->is_float ? (double)real : (double)integer;
    }
}

/* Reads the shape of an input; its number of axes, or -1 where nothing is known. The info belongs to the context. */
static int read_shape(const OrtApi *api, const OrtShapeInferContext *context, size_t number, int64_t *length,
                      const char **symbol) {
    OrtTensorTypeAndShapeInfo *info = NULL;
    size_t count = 0;
    OrtStatus *status = ORT(api, ShapeInferContext_GetInputTypeShape)(context, number, &info);
    if (!status) status = ORT(api, GetDimensionsCount)(info, &count);
    if (!status && count <= MOST_AXES) status = ORT(api, GetDimensions)(info, length, count);
    if (!status && count <= MOST_AXES) status = ORT(api, GetSymbolicDimensions)(info, symbol, count);
    if (status) {
        ORT(api, ReleaseStatus)(status);
        return -1;
    }
    for (size_t i = 0; i < count && i < MOST_AXES; i++) {
        if (length[i] < 0) length[i] = UNKNOWN;
        if (symbol[i] && !*symbol[i]) symbol[i] = NULL;
    }
    return count <= MOST_AXES ? (int)count : -1;
}

/* Sets the shape of an output, if each length has a value or a name. */
static OrtStatus *set_shape(const OrtApi *api, OrtShapeInferContext *context, size_t number, int count,
                            const int64_t *length, const char **symbol) {
    const char *names[MOST_AXES];
    for (int i = 0; i < count; i++) {
        if (length[i] == UNKNOWN && !symbol[i]) return NULL;
        names[i] = length[i] == UNKNOWN ? symbol[i] : "";
    }
    OrtTensorTypeAndShapeInfo *info = NULL;
    OrtStatus *status = ORT(api, CreateTensorTypeAndShapeInfo)(&info);
    if (status) return status;
    status = ORT(api, SetTensorElementType)(info, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    if (!status) status = ORT(api, SetDimensions)(info, length, (size_t)count);
    if (!status) status = ORT(api, SetSymbolicDimensions)(info, names, (size_t)count);
    if (!status) status = ORT(api, ShapeInferContext_SetOutputTypeShape)(context, number, info);
    ORT(api, ReleaseTensorTypeAndShapeInfo)(info);
    return status;
}

OrtStatus *infer_shapes(const struct operation *operation, const OrtApi *api, OrtShapeInferContext *context) {
    struct node node = {.operation = operation, .api = api};
    size_t inputs = 0;
    int counts[MOST_INPUTS];
    int64_t length[MOST_INPUTS][MOST_AXES];
    const char *symbol[MOST_INPUTS][MOST_AXES];
    read_attributes(&node, context);
    OrtStatus *status = ORT(api, ShapeInferContext_GetInputCount)(context, &inputs);
    if (status || !node_init(&node, operation, api)) return status;
    for (int i = 0; i < operation->inputs; i++) {
        counts[i] = (size_t)i < inputs ? read_shape(api, context, (size_t)i, length[i], symbol[i]) : -1;
        const struct shape *const shape = counts[i] < 0 ? NULL : shapes_for(&node.input[i], counts[i]);
        if (shape) shape_bind(shape, counts[i], length[i], symbol[i], &node.lengths);
    }
    for (int i = 0; i < operation->outputs && !status; i++) {
        /* A node may end before its optional outputs, and ONNX Runtime up to 1.27 does not check the number. */
        if (operation->output[i].optional) continue;
        const char *const text = operation->output[i].shape;
        if (*text == '=') {
            const int like = input_number(operation, text + 1);
            if (counts[like] > 0) status = set_shape(api, context, (size_t)i, counts[like], length[like], symbol[like]);
            continue;
        }
        const struct shape *const shape = &node.output[i].shape[0];
        int64_t lengths[MOST_AXES];
        const char *symbols[MOST_AXES];
        if (shape->rest) continue; /* the names of these axes are not kept */
        for (int j = 0; j < shape->count; j++) {
            const struct axis *const axis = &shape->axis[j];
            lengths[j] = axis_length(axis, &node.lengths);
            symbols[j] =
                axis->terms == 1 && axis->factor[0] == 1 && !axis->constant ? node.lengths.symbol[axis->name[0]] : NULL;
        }
        status = set_shape(api, context, (size_t)i, shape->count, lengths, symbols);
    }
    return status;
}
