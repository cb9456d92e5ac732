#pragma once

#include "compute.h"

/* Sets the shapes of the outputs as far as they are known. Returns NULL, or the error of ONNX Runtime. */
OrtStatus *infer_shapes(const struct operation *operation, const OrtApi *api, OrtShapeInferContext *context);
