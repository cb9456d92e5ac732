// Declarations for the operators of both packages. No header of Python is included, so one library serves every Python.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/library.h>
#include <torch/types.h>
#include <torch/version.h>

#include <optional>

#define COMPILED_FOR_TEXT(number) #number
#define COMPILED_FOR_NUMBER(number) COMPILED_FOR_TEXT(number)

// The torch, CUDA and C++ ABI that the library was compiled for. torch_library.py reads this text from the loaded
// library, or from the file where the library does not load. CUDA's number is 1000 * major + 10 * minor.
extern "C" __attribute__((used, visibility("default"))) const char compiled_for[] =
    "compiled for torch " COMPILED_FOR_NUMBER(TORCH_VERSION_MAJOR) "." COMPILED_FOR_NUMBER(TORCH_VERSION_MINOR)
    ", CUDA " COMPILED_FOR_NUMBER(CUDART_VERSION) ", C++11 ABI " COMPILED_FOR_NUMBER(_GLIBCXX_USE_CXX11_ABI) ".";

using OptionalTensor = std::optional<at::Tensor>;
