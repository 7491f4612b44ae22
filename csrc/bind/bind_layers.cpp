// The layers of a decoder: constants bound once, one call per half.
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/matrix_spec.h"
#include "bind/runtime_ref.h"
#include "bind/tensor_view.h"
#include "kernels/accelerator.h"
#include "layers/attention.h"
#include "layers/feed_forward.h"
#include "layers/head.h"
#include "layers/latent_attention.h"
#include "memory/block_tables.h"

namespace moestro::bind {
namespace {

using namespace py::literals;
using layers::Workspace;

using OptionalArray = std::optional<py::object>;
using OptionalMatrix = std::optional<MatrixRef>;

// What a layer borrows, kept as long as it.
class Constants {
  public:
    // compute: what reads them. Arrays are copied to where it reaches them.
    explicit Constants(const kernels::Compute& compute) : accelerator_(compute.accelerator()) {}

    const kernels::Matrix* matrix(const MatrixRef& ref) {
        matrices_.push_back(ref.matrix);
        return ref.matrix.get();
    }
    const kernels::Matrix* matrix(const OptionalMatrix& ref) { return ref ? matrix(*ref) : nullptr; }
    const float* floats(const OptionalArray& values, const char* argument, std::int64_t size) {
        if (!values) return nullptr;
        arrays_.push_back(input<float>(*values, argument, Shape::exactly({size})));
        if (!accelerator_) return arrays_.back().data;
        const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(float);
        copies_.push_back(accelerator_->allocate(bytes));
        accelerator_->put(copies_.back().get(), arrays_.back().data, bytes);
        return reinterpret_cast<const float*>(copies_.back().get());
    }
    const float* host_floats(const OptionalArray& values, const char* argument, std::int64_t size) {
        if (!values) return nullptr;
        arrays_.push_back(input<float>(*values, argument, Shape::exactly({size})));
        return arrays_.back().data;
    }
    bool elsewhere() const { return accelerator_ != nullptr; }
    // An array is the weight of an RMS norm; a pair of arrays, the second of which may be None, weight and bias of a
    // layer norm; None is no norm.
    layers::Norm norm(const OptionalArray& given, const char* argument, std::int64_t size, float eps) {
        if (!given) return {};
        if (!py::isinstance<py::tuple>(*given)) return {.weight = floats(given, argument, size), .eps = eps};
        require(py::len(*given) == 2, ErrorKind::usage, "argument ", argument,
                ": expected an array, or the pair (weight, bias or None) of a layer norm; got ", py::len(*given),
                " values");
        const auto pair = given->cast<std::pair<py::object, OptionalArray>>();
        return {.weight = floats(pair.first, argument, size),
                .eps = eps,
                .kind = layers::Norm::Kind::layer,
                .bias = floats(pair.second, argument, size)};
    }
    layers::Branch branch(const OptionalArray& before, const OptionalArray& after, bool reads_last, float residual,
                          std::int64_t hidden, float eps) {
        return {norm(before, "norm", hidden, eps), norm(after, "norm_after", hidden, eps), reads_last, residual};
    }

  private:
    std::vector<std::shared_ptr<const kernels::Matrix>> matrices_;
    std::vector<View<const float>> arrays_;
    kernels::Accelerator* accelerator_;  // of the compute, which the layer keeps
    std::vector<std::shared_ptr<std::byte>> copies_;
};

kernels::RouterRule::Score score(const std::string& name) {
    using Score = kernels::RouterRule::Score;
    if (name == "softmax") return Score::softmax;
    if (name == "sigmoid") return Score::sigmoid;
    if (name == "chosen") return Score::chosen;
    if (name == "sigmoid_of_chosen") return Score::sigmoid_of_chosen;
    if (name == "sparsemixer") return Score::sparsemixer;
    fail(ErrorKind::usage,
         "argument score: expected one of softmax, sigmoid, chosen, sigmoid_of_chosen, sparsemixer; got ", name);
}

kernels::RopePairs pairs(bool neighbours) {
    return neighbours ? kernels::RopePairs::neighbours : kernels::RopePairs::halves;
}

layers::Attending attending(Constants& constants, const memory::KvPool& pool, int layer, float scale, float softcap,
                            std::int64_t window, std::int64_t chunk, const OptionalArray& sinks, std::int64_t heads) {
    memory::require_layer(pool, layer);
    require(window >= 0, ErrorKind::usage, "argument window: expected 0 (unlimited) or a number of keys; got ", window);
    require(chunk >= 0, ErrorKind::usage, "argument chunk: expected 0 (unlimited) or a number of keys; got ", chunk);
    layers::Attending made;
    made.layer = layer;
    made.scale = scale;
    made.softcap = softcap;
    made.reach = {window, chunk};
    made.sinks = constants.floats(sinks, "sinks", heads);
    return made;
}

struct AttentionRef {
    std::shared_ptr<kernels::Compute> compute;
    KvRef kv;
    Constants constants;
    layers::Attention attention = {};
};

AttentionRef make_attention(const std::shared_ptr<kernels::Compute>& compute, const KvRef& kv, int layer,
                            const OptionalArray& norm, const MatrixRef& q, const MatrixRef& k, const MatrixRef& v,
                            const MatrixRef& o, float eps, float scale, std::int64_t window,
                            const OptionalArray& q_norm, const OptionalArray& k_norm, std::optional<int> rotary,
                            const OptionalArray& norm_after, float residual, const OptionalMatrix& gate,
                            bool whole_norm, bool norm_last, float clip, bool neighbours, bool temperature,
                            float softcap, std::int64_t chunk, const OptionalArray& sinks) {
    const auto pool = kv.open();
    const std::int64_t head_dim = pool->layout().key_dim, keys = pool->layout().kv_heads * head_dim;
    const std::int64_t hidden = q.matrix->spec.cols, queries = q.matrix->spec.rows;
    require(queries % keys == 0, ErrorKind::usage, "argument q: expected a multiple of ", keys,
            " rows, as the KV pool has; got ", queries);
    require_matrix(*k.matrix, "k", keys, hidden);
    require_matrix(*v.matrix, "v", keys, hidden);
    require_matrix(*o.matrix, "o", hidden, queries);
    if (gate) require_matrix(*gate->matrix, "gate", queries, hidden);
    AttentionRef made{compute, kv, Constants(*compute)};
    Constants& constants = made.constants;
    made.attention = {
        .branch = constants.branch(norm, norm_after, false, residual, hidden, eps),
        .over = attending(constants, *pool, layer, scale, softcap, window, chunk, sinks, queries / head_dim),
        .q = constants.matrix(q),
        .k = constants.matrix(k),
        .v = constants.matrix(v),
        .gate = constants.matrix(gate),
        .q_norm = constants.norm(q_norm, "q_norm", whole_norm ? queries : head_dim, eps),
        .k_norm = constants.norm(k_norm, "k_norm", whole_norm ? keys : head_dim, eps),
        .whole_norm = whole_norm,
        .norm_last = norm_last,
        .clip = clip,
        .rotation = {},
        .temperature = temperature,
        .o = constants.matrix(o)};
    if (rotary) made.attention.rotation = layers::Rotation{*rotary, pairs(neighbours)};
    return made;
}

struct LatentRef {
    std::shared_ptr<kernels::Compute> compute;
    KvRef kv;
    Constants constants;
    layers::LatentAttention attention = {};
};

LatentRef make_latent(const std::shared_ptr<kernels::Compute>& compute, const KvRef& kv, int layer,
                      const OptionalArray& norm, const OptionalMatrix& q_down, const OptionalArray& q_down_norm,
                      const MatrixRef& q, const MatrixRef& kv_down, const OptionalArray& kv_down_norm,
                      const MatrixRef& k_up, const MatrixRef& v_up, const MatrixRef& o, int values, float eps,
                      float latent_eps, float scale, bool neighbours, int rotary, const OptionalArray& norm_after,
                      float residual) {
    const auto pool = kv.open();
    const kernels::KvLayout& layout = pool->layout();
    require(layout.latent, ErrorKind::usage, "argument kv: expected a KV pool of latents");
    const int hidden = kv_down.matrix->spec.cols, latent = layout.value_dim, nope = k_up.matrix->spec.cols;
    require_matrix(*kv_down.matrix, "kv_down", layout.key_dim, kAny);
    const int dim = nope + layout.key_dim - latent, heads = q.matrix->spec.rows / dim;
    require(values > 0 && heads > 0 && q.matrix->spec.rows == heads * dim, ErrorKind::usage,
            "argument q: expected a multiple of ", dim, " rows, and values above 0; got ", q.matrix->spec.rows);
    require(k_up.matrix->spec.rows % heads == 0 && k_up.matrix->spec.rows >= heads * latent, ErrorKind::usage,
            "argument k_up: expected a stack of ", heads, " matrices of ", latent, " rows");
    require(v_up.matrix->spec.rows % heads == 0 && v_up.matrix->spec.rows >= heads * values, ErrorKind::usage,
            "argument v_up: expected a stack of ", heads, " matrices of ", values, " rows");
    require_matrix(*v_up.matrix, "v_up", kAny, latent);
    require_matrix(*o.matrix, "o", hidden, heads * values);
    const int q_cols = q_down ? q_down->matrix->spec.rows : hidden;
    require_matrix(*q.matrix, "q", kAny, q_cols);
    LatentRef made{compute, kv, Constants(*compute)};
    Constants& constants = made.constants;
    made.attention = {.branch = constants.branch(norm, norm_after, false, residual, hidden, eps),
                      .over = attending(constants, *pool, layer, scale, 0, 0, 0, std::nullopt, heads),
                      .q_down = constants.matrix(q_down),
                      .q_down_norm = constants.norm(q_down_norm, "q_down_norm", q_cols, latent_eps),
                      .q = constants.matrix(q),
                      .kv_down = constants.matrix(kv_down),
                      .kv_down_norm = constants.norm(kv_down_norm, "kv_down_norm", latent, latent_eps),
                      .k_up = constants.matrix(k_up),
                      .v_up = constants.matrix(v_up),
                      .nope = nope,
                      .values = values,
                      .rotation = {rotary, pairs(neighbours)},
                      .o = constants.matrix(o)};
    return made;
}

template <class Ref>
void run_attention(const Ref& self, Workspace& work) {
    const auto pool = self.kv.open();
    py::gil_scoped_release released;
    self.attention.run(*self.compute, *pool, work);
}

struct MlpRef {
    std::shared_ptr<kernels::Compute> compute;
    Constants constants;
    layers::Mlp mlp = {};
};

MlpRef make_mlp(const std::shared_ptr<kernels::Compute>& compute, int layer, const OptionalArray& norm, float eps,
                const MatrixRef& gate, const MatrixRef& up, const MatrixRef& down, const std::string& activation,
                const OptionalArray& norm_after, bool reads_last, float residual) {
    const std::int64_t width = gate.matrix->spec.rows, hidden = gate.matrix->spec.cols;
    require_matrix(*up.matrix, "up", width, hidden);
    require_matrix(*down.matrix, "down", hidden, width);
    MlpRef made{compute, Constants(*compute)};
    Constants& constants = made.constants;
    made.mlp = {layer,
                constants.branch(norm, norm_after, reads_last, residual, hidden, eps),
                constants.matrix(gate),
                constants.matrix(up),
                constants.matrix(down),
                gate_kind(activation)};
    return made;
}

void run_mlp(const MlpRef& self, Workspace& work) {
    py::gil_scoped_release released;
    self.mlp.run(*self.compute, work);
}

struct MoeRef {
    std::shared_ptr<RuntimeSlot> slot;
    Constants constants;
    layers::Moe moe = {};
    std::vector<std::shared_ptr<MoeRef>> next = {};  // whose routers moe.next borrows
};

using Shared = std::array<MatrixRef, 3>;

MoeRef make_moe(const RuntimeRef& runtime, int layer, const OptionalArray& norm, float eps, const MatrixRef& router,
                int top_k, bool normalise, const std::string& score_name, const OptionalArray& correction, int groups,
                int kept_groups, int group_best, float norm_eps, float norm_min, float scale, float jitter,
                bool weigh_input, bool pre_gated, const std::optional<Shared>& shared,
                const OptionalMatrix& shared_weight, const std::string& activation, bool average,
                const OptionalArray& norm_after, bool reads_last, float residual) {
    const int experts = router.matrix->spec.rows, hidden = router.matrix->spec.cols;
    require(top_k >= 1 && top_k <= experts, ErrorKind::usage, "argument top_k: expected 1 to ", experts,
            ", the number of experts; got ", top_k);
    require(groups >= 1 && experts % groups == 0 && kept_groups >= 1 && kept_groups <= groups &&
                top_k <= experts / groups * kept_groups && group_best >= 1 && group_best <= 2 &&
                group_best <= experts / groups,
            ErrorKind::usage, "argument groups: ", kept_groups, " of ", groups, " groups of ", experts,
            " experts, by the best ", group_best, ", cannot give ", top_k);
    require(!weigh_input || top_k == 1, ErrorKind::usage, "argument weigh_input: expected top_k 1; got ", top_k);
    const auto compute = runtime.slot->open()->compute();
    MoeRef made{runtime.slot, Constants(*compute)};
    Constants& constants = made.constants;
    made.moe = {
        .layer = layer,
        .branch = constants.branch(norm, norm_after, reads_last, residual, hidden, eps),
        .router = constants.matrix(router),
        .rule = {.score = score(score_name),
                 .top_k = top_k,
                 .normalise = normalise,
                 .norm_eps = norm_eps,
                 .norm_min = norm_min,
                 .scale = scale,
                 .correction = constants.host_floats(correction, "correction", experts),
                 .groups = groups,
                 .kept_groups = kept_groups,
                 .group_best = group_best,
                 .jitter = jitter},
        .correction_there = constants.elsewhere() ? constants.floats(correction, "correction", experts) : nullptr,
        .weigh_input = weigh_input,
        .pre_gated = pre_gated,
        .shared_weight = constants.matrix(shared_weight),
        .kind = gate_kind(activation),
        .average = average};
    if (shared) {
        const std::int64_t width = (*shared)[0].matrix->spec.rows;
        require_matrix(*(*shared)[0].matrix, "shared", kAny, hidden);
        require_matrix(*(*shared)[1].matrix, "shared", width, hidden);
        require_matrix(*(*shared)[2].matrix, "shared", hidden, width);
        made.moe.shared_gate = constants.matrix((*shared)[0]);
        made.moe.shared_up = constants.matrix((*shared)[1]);
        made.moe.shared_down = constants.matrix((*shared)[2]);
    }
    if (shared_weight) require_matrix(*shared_weight->matrix, "shared_weight", 1, hidden);
    return made;
}

void look_ahead(MoeRef& self, std::vector<std::shared_ptr<MoeRef>> next) {
    self.next = std::move(next);
    self.moe.next.clear();
    for (const auto& one : self.next) {
        require(one->moe.router->spec.cols == self.moe.router->spec.cols && one->moe.layer > self.moe.layer,
                ErrorKind::usage, "argument next: expected later layers of the same hidden size");
        self.moe.next.push_back({one->moe.layer, one->moe.router, one->moe.rule, one->moe.pre_gated});
    }
}

void submit(const MoeRef& self, Workspace& work) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    self.moe.submit(*runtime, work);
}

void wait(const MoeRef& self, Workspace& work) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    self.moe.wait(*runtime, work);
}

struct HeadRef {
    std::shared_ptr<kernels::Compute> compute;
    Constants constants;
    layers::Head head = {};
};

HeadRef make_head(const std::shared_ptr<kernels::Compute>& compute, const py::object& norm, float eps,
                  const std::vector<MatrixRef>& slices, float multiplier, float softcap) {
    require(!slices.empty(), ErrorKind::usage, "argument slices: expected at least one Matrix");
    const std::int64_t hidden = slices[0].matrix->spec.cols;
    HeadRef made{compute, Constants(*compute)};
    made.head.norm = made.constants.norm(norm, "norm", hidden, eps);
    made.head.multiplier = multiplier;
    made.head.softcap = softcap;
    for (const MatrixRef& slice : slices) {
        require_matrix(*slice.matrix, "slices", kAny, hidden);
        made.head.slices.push_back(made.constants.matrix(slice));
    }
    return made;
}

py::array_t<float> run_head(const HeadRef& self, Workspace& work, const py::object& rows) {
    const auto chosen = input<std::int64_t>(rows, "rows", Shape::exactly({kAny}));
    py::array_t<float> logits({chosen.size(), std::int64_t{self.head.vocab()}});
    float* to = logits.mutable_data();
    py::gil_scoped_release released;
    self.head.run(*self.compute, work, {chosen.data, static_cast<std::size_t>(chosen.size())}, to);
    return logits;
}

}  // namespace

void bind_layers(py::module_& module) {
    py::class_<AttentionRef>(module, "AttentionLayer", "The attention half of a decoder layer.")
        .def(py::init(&make_attention), "compute"_a, "kv"_a, "layer"_a, py::kw_only(), "norm"_a, "q"_a, "k"_a, "v"_a,
             "o"_a, "eps"_a, "scale"_a, "window"_a = 0, "q_norm"_a = py::none(), "k_norm"_a = py::none(),
             "rotary"_a = 0, "norm_after"_a = py::none(), "residual"_a = 1.0f, "gate"_a = py::none(),
             "whole_norm"_a = false, "norm_last"_a = false, "clip"_a = 0.0f, "neighbours"_a = false,
             "temperature"_a = false, "softcap"_a = 0.0f, "chunk"_a = 0, "sinks"_a = py::none())
        .def("run", &run_attention<AttentionRef>, "work"_a);
    py::class_<LatentRef>(module, "LatentAttentionLayer", "Multi-head latent attention, the attention half of a layer.")
        .def(py::init(&make_latent), "compute"_a, "kv"_a, "layer"_a, py::kw_only(), "norm"_a, "q_down"_a,
             "q_down_norm"_a, "q"_a, "kv_down"_a, "kv_down_norm"_a, "k_up"_a, "v_up"_a, "o"_a, "values"_a, "eps"_a,
             "latent_eps"_a, "scale"_a, "neighbours"_a = false, "rotary"_a = 0, "norm_after"_a = py::none(),
             "residual"_a = 1.0f)
        .def("run", &run_attention<LatentRef>, "work"_a);
    py::class_<MlpRef>(module, "MlpLayer", "The feed-forward half of a dense layer.")
        .def(py::init(&make_mlp), "compute"_a, "layer"_a, py::kw_only(), "norm"_a, "eps"_a, "gate"_a, "up"_a, "down"_a,
             "activation"_a = "silu", "norm_after"_a = py::none(), "reads_last"_a = false, "residual"_a = 1.0f)
        .def("run", &run_mlp, "work"_a);
    py::class_<MoeRef, std::shared_ptr<MoeRef>>(module, "MoeLayer", "The feed-forward half of a layer with experts.")
        .def(py::init(&make_moe), "runtime"_a, "layer"_a, py::kw_only(), "norm"_a, "eps"_a, "router"_a, "top_k"_a,
             "normalise"_a, "score"_a = "softmax", "correction"_a = py::none(), "groups"_a = 1, "kept_groups"_a = 1,
             "group_best"_a = 1, "norm_eps"_a = 0.0f, "norm_min"_a = 0.0f, "scale"_a = 1.0f, "jitter"_a = 0.0f,
             "weigh_input"_a = false, "pre_gated"_a = false, "shared"_a = py::none(), "shared_weight"_a = py::none(),
             "activation"_a = "silu", "average"_a = false, "norm_after"_a = py::none(), "reads_last"_a = false,
             "residual"_a = 1.0f)
        .def("look_ahead", &look_ahead, "next"_a)
        .def("submit", &submit, "work"_a)
        .def("wait", &wait, "work"_a);
    py::class_<HeadRef>(module, "Head", "The last norm and the output head.")
        .def(py::init(&make_head), "compute"_a, py::kw_only(), "norm"_a, "eps"_a, "slices"_a, "multiplier"_a = 1.0f,
             "softcap"_a = 0.0f)
        .def_property_readonly("vocab", [](const HeadRef& self) { return self.head.vocab(); })
        .def("run", &run_head, "work"_a, "rows"_a);
}

}  // namespace moestro::bind
