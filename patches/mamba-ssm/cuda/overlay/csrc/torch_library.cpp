// Registers the functions of selective_scan.cpp as torch operators.

#include "torch_library.h"

#include <tuple>
#include <vector>

using at::Tensor;

std::vector<Tensor> selective_scan_fwd(const Tensor &u, const Tensor &delta, const Tensor &A, const Tensor &B,
                                       const Tensor &C, const OptionalTensor &D, const OptionalTensor &z,
                                       const OptionalTensor &delta_bias, bool delta_softplus);

std::vector<Tensor> selective_scan_bwd(const Tensor &u, const Tensor &delta, const Tensor &A, const Tensor &B,
                                       const Tensor &C, const OptionalTensor &D, const OptionalTensor &z,
                                       const OptionalTensor &delta_bias, const Tensor &dout, const OptionalTensor &x,
                                       const OptionalTensor &out, OptionalTensor &dz, bool delta_softplus,
                                       bool recompute_out_z);

namespace {

// An operator returns the same number of defined tensors in each call. A tensor without elements replaces a result that
// upstream's function leaves undefined.

Tensor or_empty(const Tensor &tensor, const Tensor &like) {
    return tensor.defined() ? tensor : at::empty({0}, like.options());
}

std::tuple<Tensor, Tensor, Tensor> fwd(const Tensor &u, const Tensor &delta, const Tensor &A, const Tensor &B,
                                       const Tensor &C, const OptionalTensor &D, const OptionalTensor &z,
                                       const OptionalTensor &delta_bias, bool delta_softplus) {
    const auto made = selective_scan_fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus);
    return {made[0], made[1], or_empty(made.size() > 2 ? made[2] : Tensor(), u)};
}

// The gradient of z is written to the argument dz, which the caller must give where z is given.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
bwd(const Tensor &u, const Tensor &delta, const Tensor &A, const Tensor &B, const Tensor &C, const OptionalTensor &D,
    const OptionalTensor &z, const OptionalTensor &delta_bias, const Tensor &dout, const OptionalTensor &x,
    const OptionalTensor &out, OptionalTensor dz, bool delta_softplus, bool recompute_out_z) {
    TORCH_CHECK(z.has_value() == dz.has_value(), "dz goes with z: both or neither");
    const auto made = selective_scan_bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus,
                                         recompute_out_z);
    return {made[0],
            made[1],
            made[2],
            made[3],
            made[4],
            or_empty(made[5], u),
            or_empty(made[6], u),
            or_empty(recompute_out_z ? made.back() : Tensor(), u)};
}

}  // namespace

TORCH_LIBRARY(selective_scan_cuda, library) {
    library.def("fwd(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
                "bool delta_softplus) -> (Tensor out, Tensor x, Tensor out_z)");
    library.def("bwd(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
                "Tensor dout, Tensor? x, Tensor? out, Tensor(a!)? dz, bool delta_softplus, bool recompute_out_z) -> "
                "(Tensor du, Tensor ddelta, Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor ddelta_bias, "
                "Tensor out_z)");
}

TORCH_LIBRARY_IMPL(selective_scan_cuda, CUDA, library) {
    library.impl("fwd", &fwd);
    library.impl("bwd", &bwd);
}

// Autograd ignores these operators, as autograd ignored the functions of upstream's extension module.
TORCH_LIBRARY_IMPL(selective_scan_cuda, Autograd, library) {
    library.impl("fwd", torch::CppFunction::makeFallthrough());
    library.impl("bwd", torch::CppFunction::makeFallthrough());
}
