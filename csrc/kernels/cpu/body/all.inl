// The generic bodies. An instruction set's unit includes this inside its anonymous namespace, after its vocabulary:
// nothing here may include anything else, nor leave that namespace. The order is the order of use.
// clang-format off
#include "kernels/cpu/body/math.inl"
#include "kernels/cpu/body/rowwise.inl"
#include "kernels/cpu/body/linear.inl"
#include "kernels/cpu/body/attention_products.inl"
#include "kernels/cpu/body/attention.inl"
#include "kernels/cpu/body/table.inl"
// clang-format on
