#include "compute.h"

#include <stdarg.h>
#include <stdio.h>

static int attribute_number(const void *context, const char *name) {
    const struct operation *operation = context;
    for (int i = 0; i < operation->attributes; i++)
        if (strcmp(operation->attribute[i].name, name) == 0) return i;
    return -1;
}

int input_number(const struct operation *operation, const char *name) {
    for (int i = 0; i < operation->inputs; i++)
        if (strcmp(operation->input[i].name, name) == 0) return i;
    return -1;
}

double call_attribute(const struct call *call, const char *name) {
    const int number = attribute_number(call->node->operation, name);
    return number < 0 ? 0.0 : call->node->attribute[number];
}

int64_t call_length(const struct call *call, const char *name) {
    for (int i = 0; i < call->lengths.count; i++)
        if (strcmp(call->lengths.name[i], name) == 0) return call->lengths.value[i];
    return UNKNOWN;
}

int call_fail(struct call *call, const char *format, ...) {
    char text[512];
    const int used = snprintf(text, sizeof text, DOMAIN ".%s: ", call->node->operation->name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, sizeof text - (size_t)used, format, arguments);
    va_end(arguments);
    call->status = ORT(call->node->api, CreateStatus)(ORT_INVALID_ARGUMENT, text);
    return FAILED;
}

int node_init(struct node *node, const struct operation *operation, const OrtApi *api) {
    node->operation = operation;
    node->api = api;
    node->lengths.count = 0;
    node->lengths.rest_count = UNKNOWN;
    const int number = attribute_number(operation, "channels_last"),
              last = number >= 0 && node->attribute[number] != 0.0;
    for (int i = 0; i < operation->inputs + operation->outputs; i++) {
        const int is_input = i < operation->inputs, index = is_input ? i : i - operation->inputs;
        const struct value *const value = is_input ? &operation->input[index] : &operation->output[index];
        struct shapes *const shapes = is_input ? &node->input[index] : &node->output[index];
        const char *const text = last && value->channels_last ? value->channels_last : value->shape;
        if (*text == '=') *shapes = node->input[input_number(operation, text + 1)];
        else if (!shapes_read(shapes, text, &node->lengths, attribute_number, operation)) return 0;
    }
    return 1;
}

void call_keep(float *output, const struct input *input) {
    size_t count = 1;
    for (int i = 0; i < input->count; i++) count *= (size_t)input->length[i];
    if (output != input->data) memmove(output, input->data, count * sizeof *output);
}

static void name_lengths(char *text, size_t size, const int64_t *length, int count) {
    size_t used = (size_t)snprintf(text, size, "(");
    for (int i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)length[i]);
    if (used < size) snprintf(text + used, size - used, ")");
}

/* Reads one input's memory and lengths. */
static int read_input(struct call *call, int number) {
    const OrtApi *const api = call->node->api;
    struct input *const input = &call->input[number];
    const OrtValue *value = NULL;
    OrtTensorTypeAndShapeInfo *info = NULL;
    size_t count = 0;
    static char empty[64]; /* stands for the memory of a tensor without elements */
    call->status = ORT(api, KernelContext_GetInput)(call->context, (size_t)number, &value);
    if (call->status) return FAILED;
    if (!value) return 0;
    call->status = ORT(api, GetTensorTypeAndShape)(value, &info);
    if (call->status) return FAILED;
    call->status = ORT(api, GetDimensionsCount)(info, &count);
    if (!call->status && count > MOST_AXES) {
        const char *const name = call->node->operation->input[number].name;
        call_fail(call, "%s has %zu axes, and at most %d are taken", name, count, MOST_AXES);
    }
    if (!call->status) call->status = ORT(api, GetDimensions)(info, input->length, count);
    ORT(api, ReleaseTensorTypeAndShapeInfo)(info);
    /* The function is for reading too, and takes a value that is not const. */
    if (!call->status) call->status = ORT(api, GetTensorMutableData)((OrtValue *)(uintptr_t)value, &input->data);
    if (call->status) return FAILED;
    input->count = (int)count;
    if (!input->data) input->data = empty;
    return 0;
}

static int misfit(struct call *call, int number) {
    const struct node *const node = call->node;
    const struct input *const input = &call->input[number];
    const struct shapes *const shapes = &node->input[number];
    const struct shape *const one = shapes_for(shapes, input->count);
    char found[160], expected[256];
    size_t used = 0;
    name_lengths(found, sizeof found, input->length, input->count);
    for (int i = 0; i < shapes->count; i++) {
        const struct shape *const shape = &shapes->shape[i];
        if (one && shape != one) continue;
        if (used) used += (size_t)snprintf(expected + used, sizeof expected - used, " or ");
        if (used + 8 > sizeof expected) break;
        shape_name(expected + used, sizeof expected - used, shape, &call->lengths, node->attribute);
        used = strlen(expected);
    }
    return call_fail(call, "%s has shape %s, expected %s", node->operation->input[number].name, found, expected);
}

static int make_output(struct call *call, int number) {
    const struct node *const node = call->node;
    const struct operation *const operation = node->operation;
    const char *const text = operation->output[number].shape;
    int64_t length[MOST_AXES];
    int count = 0;
    if (*text == '=') {
        const struct input *const like = &call->input[input_number(operation, text + 1)];
        count = like->count;
        memcpy(length, like->length, sizeof length);
    } else {
        const struct shape *const shape = &node->output[number].shape[0];
        if (shape->rest) {
            count = call->lengths.rest_count;
            memcpy(length, call->lengths.rest, sizeof length);
        }
        for (int i = 0; i < shape->count; i++) length[count++] = axis_length(&shape->axis[i], &call->lengths);
    }
    OrtValue *value = NULL;
    void *data = NULL;
    static char empty[64];
    call->status =
        ORT(node->api, KernelContext_GetOutput)(call->context, (size_t)number, length, (size_t)count, &value);
    if (call->status) return FAILED;
    if (!value) return 0;
    call->status = ORT(node->api, GetTensorMutableData)(value, &data);
    if (call->status) return FAILED;
    call->output[number] = data ? data : empty;
    return 0;
}

int call_begin(struct call *call, const struct node *node, OrtKernelContext *context) {
    const struct operation *const operation = node->operation;
    size_t inputs = 0;
    *call = (struct call){.node = node, .context = context, .lengths = node->lengths};
    call->status = ORT(node->api, KernelContext_GetInputCount)(context, &inputs);
    if (call->status) return FAILED;
    for (int i = 0; i < operation->inputs; i++) {
        if ((size_t)i < inputs && read_input(call, i)) return FAILED;
        const struct input *const input = &call->input[i];
        if (!input->data && !operation->input[i].optional)
            return call_fail(call, "the input %s is missing", operation->input[i].name);
        if (!input->data) continue;
        const struct shape *const shape = shapes_for(&node->input[i], input->count);
        if (!shape) return misfit(call, i);
        shape_bind(shape, input->count, input->length, NULL, &call->lengths);
    }
    for (int i = 0; i < operation->inputs; i++) {
        const struct input *const input = &call->input[i];
        if (!input->data) continue;
        const struct shape *const shape = shapes_for(&node->input[i], input->count);
        if (!shape_fits(shape, input->count, input->length, &call->lengths, node->attribute)) return misfit(call, i);
    }
    return 0;
}

int call_outputs(struct call *call) {
    size_t outputs = 0;
    call->status = ORT(call->node->api, KernelContext_GetOutputCount)(call->context, &outputs);
    if (call->status) return FAILED;
    for (int i = 0; i < call->node->operation->outputs && (size_t)i < outputs; i++)
        if (make_output(call, i)) return FAILED;
    return 0;
}
