// Registers the functions of causal_conv1d.cpp as torch operators.

#include "torch_library.h"

using at::Tensor;

void causal_conv1d_fwd(const Tensor &x, const Tensor &weight, const OptionalTensor &bias, const OptionalTensor &seq_idx,
                       const OptionalTensor &initial_states, Tensor &out, OptionalTensor &final_states_out,
                       bool silu_activation);

void causal_conv1d_bwd(const Tensor &x, const Tensor &weight, const OptionalTensor &bias, Tensor &dout,
                       const OptionalTensor &seq_idx, const OptionalTensor &initial_states,
                       const OptionalTensor &dfinal_states, Tensor &dx, Tensor &dweight, OptionalTensor &dbias,
                       OptionalTensor &dinitial_states, bool silu_activation);

void causal_conv1d_update(const Tensor &x, const Tensor &conv_state, const Tensor &weight, const OptionalTensor &bias,
                          Tensor &out, bool silu_activation, const OptionalTensor &cache_seqlens,
                          const OptionalTensor &conv_state_indices);

namespace {

// An operator cannot take a reference to an optional that is not const, as upstream's functions do. These wrappers take
// copies, which share the memory of the tensors.

void fwd(const Tensor &x, const Tensor &weight, const OptionalTensor &bias, const OptionalTensor &seq_idx,
         const OptionalTensor &initial_states, Tensor out, OptionalTensor final_states_out, bool silu_activation) {
    causal_conv1d_fwd(x, weight, bias, seq_idx, initial_states, out, final_states_out, silu_activation);
}

void bwd(const Tensor &x, const Tensor &weight, const OptionalTensor &bias, Tensor dout, const OptionalTensor &seq_idx,
         const OptionalTensor &initial_states, const OptionalTensor &dfinal_states, Tensor dx, Tensor dweight,
         OptionalTensor dbias, OptionalTensor dinitial_states, bool silu_activation) {
    causal_conv1d_bwd(x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, dweight, dbias,
                      dinitial_states, silu_activation);
}

void update(const Tensor &x, Tensor conv_state, const Tensor &weight, const OptionalTensor &bias, Tensor out,
            bool silu_activation, const OptionalTensor &cache_seqlens, const OptionalTensor &conv_state_indices) {
    causal_conv1d_update(x, conv_state, weight, bias, out, silu_activation, cache_seqlens, conv_state_indices);
}

}  // namespace

TORCH_LIBRARY(causal_conv1d_cuda, library) {
    library.def("causal_conv1d_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, "
                "Tensor(a!) out, Tensor(b!)? final_states_out, bool silu_activation) -> ()");
    library.def("causal_conv1d_bwd(Tensor x, Tensor weight, Tensor? bias, Tensor dout, Tensor? seq_idx, "
                "Tensor? initial_states, Tensor? dfinal_states, Tensor(a!) dx, Tensor(b!) dweight, Tensor(c!)? dbias, "
                "Tensor(d!)? dinitial_states, bool silu_activation) -> ()");
    library.def("causal_conv1d_update(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, Tensor(b!) out, "
                "bool silu_activation, Tensor? cache_seqlens, Tensor? conv_state_indices) -> ()");
}

TORCH_LIBRARY_IMPL(causal_conv1d_cuda, CUDA, library) {
    library.impl("causal_conv1d_fwd", &fwd);
    library.impl("causal_conv1d_bwd", &bwd);
    library.impl("causal_conv1d_update", &update);
}

// Autograd ignores these operators, as autograd ignored the functions of upstream's extension module.
TORCH_LIBRARY_IMPL(causal_conv1d_cuda, Autograd, library) {
    library.impl("causal_conv1d_fwd", torch::CppFunction::makeFallthrough());
    library.impl("causal_conv1d_bwd", torch::CppFunction::makeFallthrough());
    library.impl("causal_conv1d_update", torch::CppFunction::makeFallthrough());
}
