/* The functions that ONNX Runtime and Python call. */
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "infer.h"
#include "isa.h"

int best_instruction_set(void);

/* An operator as ONNX Runtime sees it. */
struct custom_operation {
    OrtCustomOp ort; /* the first member: ONNX Runtime knows the address */
    const struct operation *operation;
    const OrtApi *api;
};

static const struct operation *operation_of(const OrtCustomOp *op) {
    return ((const struct custom_operation *)op)->operation;
}

static const char *get_name(const OrtCustomOp *op) { return operation_of(op)->name; }
static const char *get_provider(const OrtCustomOp *op) { return (void)op, NULL; /* the CPU */ }
static size_t input_count(const OrtCustomOp *op) { return (size_t)operation_of(op)->inputs; }
static size_t output_count(const OrtCustomOp *op) { return (size_t)operation_of(op)->outputs; }
static ONNXTensorElementDataType type_of(const struct value *value) {
    static const ONNXTensorElementDataType types[] = {
        [VALUE_FLOAT32] = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        [VALUE_INT32] = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        [VALUE_INT8] = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
    };
    return types[value->type];
}
static ONNXTensorElementDataType input_type(const OrtCustomOp *op, size_t i) {
    return type_of(&operation_of(op)->input[i]);
}
static ONNXTensorElementDataType output_type(const OrtCustomOp *op, size_t i) {
    return type_of(&operation_of(op)->output[i]);
}
static OrtCustomOpInputOutputCharacteristic input_kind(const OrtCustomOp *op, size_t i) {
    return operation_of(op)->input[i].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}
static OrtCustomOpInputOutputCharacteristic output_kind(const OrtCustomOp *op, size_t i) {
    return operation_of(op)->output[i].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}
static OrtMemType memory_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, OrtMemTypeDefault; }
static int start_version(const OrtCustomOp *op) { return (void)op, DOMAIN_VERSION; }
static int end_version(const OrtCustomOp *op) { return (void)op, INT_MAX; }

/* No operator has a variadic input or output. */
static int one(const OrtCustomOp *op) { return (void)op, 1; }

/* The pairs of an input and an output that may share memory. */
static size_t may_inplace(int operation, int **inputs, int **outputs) {
    const struct operation *const from = &operations[operation];
    size_t pairs = 0;
    *inputs = malloc(MOST_OUTPUTS * sizeof **inputs);
    *outputs = malloc(MOST_OUTPUTS * sizeof **outputs);
    for (int i = 0; *inputs && *outputs && i < from->outputs; i++) {
        if (!from->output[i].updates) continue;
        (*inputs)[pairs] = input_number(from, from->output[i].updates);
        (*outputs)[pairs++] = i;
    }
    return pairs;
}

static void release_inplace(int *inputs, int *outputs) {
    free(inputs);
    free(outputs);
}

/* ONNX Runtime does not say of which operator it asks the pairs, so each operator has a function of its own. */
#define EACH_OPERATION(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9)
#define MAY_INPLACE(i) \
    static size_t may_inplace_##i(int **inputs, int **outputs) { return may_inplace(i, inputs, outputs); }
EACH_OPERATION(MAY_INPLACE)
#define NAME_INPLACE(i) may_inplace_##i,
static size_t (*const may_inplaces[])(int **, int **) = {EACH_OPERATION(NAME_INPLACE)};
_Static_assert(sizeof may_inplaces / sizeof *may_inplaces == OPERATION_COUNT, "each operator has its function");

static OrtStatus *refuse(const OrtApi *api, const char *format, const char *first, const char *second,
                         const char *third) {
    char text[512];
    snprintf(text, sizeof text, format, first, second, third);
    return ORT(api, CreateStatus)(ORT_INVALID_ARGUMENT, text);
}

/* Reads an attribute; the default where the node does not have it. */
static OrtStatus *read_attribute(const OrtApi *api, const OrtKernelInfo *info, const struct operation *operation,
                                 int number, double *value) {
    const struct attribute *const attribute = &operation->attribute[number];
    int64_t integer = 0;
    float real = 0.0f;
    OrtStatus *const no_integer = ORT(api, KernelInfoGetAttribute_int64)(info, attribute->name, &integer);
    OrtStatus *const no_float = ORT(api, KernelInfoGetAttribute_float)(info, attribute->name, &real);
    if (no_integer) ORT(api, ReleaseStatus)(no_integer);
    if (no_float) ORT(api, ReleaseStatus)(no_float);
    *value = attribute->value;
    if (!no_integer && !attribute->is_float) *value = (double)integer;
    else if (!no_float && attribute->is_float) *value = (double)real;
    else if (!no_integer || !no_float)
        return refuse(api, DOMAIN ".%s: the attribute %s is not a%s", operation->name, attribute->name,
                      attribute->is_float ? " float" : "n integer");
    return NULL;
}

static OrtStatus *create_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    const struct operation *const operation = operation_of(op);
    struct node *const node = calloc(1, sizeof *node);
    *kernel = NULL;
    if (!node) return ORT(api, CreateStatus)(ORT_FAIL, DOMAIN ": not enough memory for a node");
    for (int i = 0; i < operation->attributes; i++) {
        OrtStatus *const status = read_attribute(api, info, operation, i, &node->attribute[i]);
        if (status) {
            free(node);
            return status;
        }
    }
    if (!node_init(node, operation, api)) {
        free(node);
        return ORT(api, CreateStatus)(ORT_FAIL, DOMAIN ": a shape of the library's own table cannot be read");
    }
    *kernel = node;
    return NULL;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const struct node *const node = kernel;
    struct call call;
    if (call_begin(&call, node, context)) return call.status;
    use_session_threads(node->api, context);
    const int failed = node->operation->compute(&call);
    use_session_threads(NULL, NULL);
    if (failed == NO_MEMORY) call_fail(&call, "not enough memory for the kernel's scratch space");
    if (failed == TOO_LARGE) call_fail(&call, "the shapes need more scratch memory than a process can address");
    return call.status;
}

static OrtStatus *infer(const OrtCustomOp *op, OrtShapeInferContext *context) {
    return infer_shapes(operation_of(op), ((const struct custom_operation *)op)->api, context);
}

/* Whether a node may leave out an input while ONNX Runtime infers shapes: before 1.24, it then read through NULL. */
static int infers_without_inputs(const char *version) {
    int major = 0, minor = 0;
    return sscanf(version, "%d.%d", &major, &minor) == 2 && (major > 1 || minor >= 24);
}

static void fill(struct custom_operation *op, int number, const OrtApi *api, int inferring) {
    op->operation = &operations[number];
    op->api = api;
    op->ort = (OrtCustomOp){
        .version = ORT_VERSION,
        .GetName = get_name,
        .GetExecutionProviderType = get_provider,
        .GetInputType = input_type,
        .GetInputTypeCount = input_count,
        .GetOutputType = output_type,
        .GetOutputTypeCount = output_count,
        .KernelDestroy = free,
        .GetInputCharacteristic = input_kind,
        .GetOutputCharacteristic = output_kind,
        .GetInputMemoryType = memory_type,
        .GetVariadicInputMinArity = one,
        .GetVariadicInputHomogeneity = one,
        .GetVariadicOutputMinArity = one,
        .GetVariadicOutputHomogeneity = one,
        .CreateKernelV2 = create_kernel,
        .KernelComputeV2 = compute,
        .InferOutputShapeFn = inferring ? infer : NULL,
        .GetStartVersion = start_version,
        .GetEndVersion = end_version,
    };
    int pairs = 0;
    for (int i = 0; i < op->operation->outputs; i++) pairs += op->operation->output[i].updates != NULL;
    if (pairs) {
        op->ort.GetMayInplace = may_inplaces[number];
        op->ort.ReleaseMayInplace = release_inplace;
    }
}

/* Chooses the instruction set: the best that the processor has, or that of MAMBAPORT_KERNEL_ISA. */
static OrtStatus *choose_instruction_set(const OrtApi *api) {
#define ISA_NAME(name) #name,
    static const char *const names[] = {INSTRUCTION_SETS(ISA_NAME)};
#undef ISA_NAME
    const char *const wanted = getenv("MAMBAPORT_KERNEL_ISA");
    int chosen = best_instruction_set();
    const int best = chosen;
    if (wanted && *wanted) {
        for (chosen = best; chosen >= 0 && strcmp(names[chosen], wanted) != 0; chosen--) {
        }
        if (chosen < 0) {
            char available[64] = "";
            for (int i = 0; i <= best; i++) {
                const size_t used = strlen(available);
                snprintf(available + used, sizeof available - used, "%s%s", i ? ", " : "", names[i]);
            }
            return refuse(
                api, "%s is %s, and the instruction sets of this processor are %s: set it to one of these, or unset it",
                "MAMBAPORT_KERNEL_ISA", wanted, available);
        }
    }
    chosen_isa = (enum isa)chosen;
    return NULL;
}

/* Makes the domain and its operators. Sessions refer to both, so both stay until the process ends. */
static OrtStatus *make_domain(const OrtApi *api, const char *version, OrtCustomOpDomain **domain) {
    struct custom_operation *const ops = calloc((size_t)OPERATION_COUNT, sizeof *ops);
    if (!ops) return ORT(api, CreateStatus)(ORT_FAIL, DOMAIN ": not enough memory for the operators");
    OrtStatus *status = ORT(api, CreateCustomOpDomain)(DOMAIN, domain);
    if (status) {
        free(ops);
        return status;
    }
    for (int i = 0; !status && i < OPERATION_COUNT; i++) {
        fill(&ops[i], i, api, infers_without_inputs(version));
        status = ORT(api, CustomOpDomain_Add)(*domain, &ops[i].ort);
    }
    if (status) {
        ORT(api, ReleaseCustomOpDomain)(*domain);
        free(ops);
    }
    return status;
}

/* Adds the operators to the options of a session. ONNX Runtime's register_custom_ops_library calls this function by its
   name. Returns NULL, or an error: ONNX Runtime is too old, or MAMBAPORT_KERNEL_ISA names no instruction set. */
EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const OrtApiBase *known_base; /* the ONNX Runtime that `domain` was made for */
    static OrtCustomOpDomain *domain;
    const OrtApi *const api = base->GetApi(ORT_VERSION);
    if (!api)
        return refuse(base->GetApi(1),
                      "the operators of " DOMAIN
                      " need ONNX Runtime %s or newer, and this is ONNX Runtime %s: install a "
                      "newer one, such as by `pip install --upgrade onnxruntime`%s",
                      ORT_OLDEST, base->GetVersionString(), "");
    OrtStatus *status = NULL;
    pthread_mutex_lock(&lock);
    if (known_base != base) {
        status = choose_instruction_set(api);
        if (!status) status = make_domain(api, base->GetVersionString(), &domain);
        if (!status) known_base = base;
    }
    if (!status) status = ORT(api, AddCustomOpDomain)(options, domain);
    pthread_mutex_unlock(&lock);
    return status;
}

static int describe_value(char *text, size_t size, const char *kind, const struct value *value) {
    static const char *const types[] = {[VALUE_FLOAT32] = "float32", [VALUE_INT32] = "int32", [VALUE_INT8] = "int8"};
    return snprintf(text, size, "%s %s %s [%s] [%s]%s%s%s\n", kind, value->name, types[value->type], value->shape,
                    value->channels_last ? value->channels_last : value->shape, value->optional ? " optional" : "",
                    value->updates ? " updates " : "", value->updates ? value->updates : "");
}

/* Writes the operators as text, as `describe` of mambaport_onnx/operators.py does. Returns the length of the text, of
   which `size` - 1 characters are written. */
EXPORT int64_t mambaport_onnx_describe(char *text, int64_t size) {
    size_t used = 0;
#define PUT(call)                                                          \
    do {                                                                   \
        char *const at = used < (size_t)size ? text + used : NULL;         \
        const size_t left = used < (size_t)size ? (size_t)size - used : 0; \
        used += (size_t)(call);                                            \
    } while (0)
    PUT(snprintf(at, left, "domain %s %d\n", DOMAIN, DOMAIN_VERSION));
    for (int i = 0; i < OPERATION_COUNT; i++) {
        const struct operation *const from = &operations[i];
        PUT(snprintf(at, left, "operator %s\n", from->name));
        for (int j = 0; j < from->inputs; j++) PUT(describe_value(at, left, "input", &from->input[j]));
        for (int j = 0; j < from->attributes; j++)
            PUT(snprintf(at, left, "attribute %s %s %g\n", from->attribute[j].name,
                         from->attribute[j].is_float ? "float" : "int", from->attribute[j].value));
        for (int j = 0; j < from->outputs; j++) PUT(describe_value(at, left, "output", &from->output[j]));
    }
#undef PUT
    return (int64_t)used;
}
