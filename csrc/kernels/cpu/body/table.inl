// The bodies, gathered into this instruction set's table.

template <class Segment>
constexpr auto kTwoPanels = kTwoStreams ? two_panels<Segment> : nullptr;

constexpr Table kTable = {
    .panel = {panel<FloatPanel<float>>, panel<FloatPanel<quant::Bf16>>, panel<IntegerPanel<Q8>>,
              panel<IntegerPanel<Q4>>},
    .two_panels = {kTwoPanels<FloatPanel<float>>, kTwoPanels<FloatPanel<quant::Bf16>>, kTwoPanels<IntegerPanel<Q8>>,
                   kTwoPanels<IntegerPanel<Q4>>},
    .quantise = quantise,
    .round_pairs = nullptr,
    .gated = {silu_gated, gelu_tanh_gated, clamped_swiglu_gated},
    .sigmoid = sigmoid_of,
    .sigmoid_mul = sigmoid_mul,
    .clamp = clamp,
    .softcap = softcap,
    .axpy = axpy,
    .add = add_rows,
    .sum_of_squares = sum_of_squares,
    .sum = sum_of,
    .centre = centre,
    .scale_by = scale_by,
    .softmax = softmax,
    .rotate = {rotate, rotate_pairs},
    .narrow = {narrow<float>, narrow<quant::Bf16>, narrow<quant::F16>},
    .attend = {attend<float>, attend<quant::Bf16>, attend<quant::F16>},
    .merge = merge,
    .finish = finish,
};
