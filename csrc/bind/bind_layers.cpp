// The layers of a decoder: constants bound once, one call per half.
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "bind/matrix_spec.h"
#include "bind/runtime_ref.h"
#include "bind/tensor_view.h"
#include "layers/attention.h"
#include "layers/feed_forward.h"
#include "layers/head.h"
#include "memory/block_tables.h"

namespace moestro::bind {
namespace {

using namespace py::literals;
using layers::Workspace;

// What a layer borrows, kept as long as it.
class Constants {
  public:
    const kernels::Matrix* matrix(const MatrixRef& ref) {
        matrices_.push_back(ref.matrix);
        return ref.matrix.get();
    }
    layers::Norm norm(const py::object& weight, const char* argument, std::int64_t size, float eps) {
        norms_.push_back(input<float>(weight, argument, Shape::exactly({size})));
        return {norms_.back().data, eps};
    }
    layers::Norm norm(const std::optional<py::object>& weight, const char* argument, std::int64_t size, float eps) {
        return weight ? norm(*weight, argument, size, eps) : layers::Norm{};
    }

  private:
    std::vector<std::shared_ptr<const kernels::Matrix>> matrices_;
    std::vector<View<const float>> norms_;
};

struct AttentionRef {
    std::shared_ptr<kernels::Compute> compute;
    KvRef kv;
    Constants constants = {};
    layers::Attention attention = {};
};

AttentionRef make_attention(std::shared_ptr<kernels::Compute> compute, const KvRef& kv, int layer,
                            const py::object& input_norm, const MatrixRef& q, const MatrixRef& k, const MatrixRef& v,
                            const MatrixRef& o, float eps, float scale, std::int64_t window,
                            const std::optional<py::object>& q_norm, const std::optional<py::object>& k_norm,
                            bool rotary) {
    const auto pool = kv.open();
    memory::require_layer(*pool, layer);
    const std::int64_t head_dim = pool->layout().head_dim, keys = pool->layout().kv_heads * head_dim;
    const std::int64_t hidden = q.matrix->spec.cols, queries = q.matrix->spec.rows;
    require(queries % keys == 0, ErrorKind::usage, "argument q: expected a multiple of ", keys,
            " rows, as the KV pool has; got ", queries);
    require_matrix(*k.matrix, "k", keys, hidden);
    require_matrix(*v.matrix, "v", keys, hidden);
    require_matrix(*o.matrix, "o", hidden, queries);
    require(window >= 0, ErrorKind::usage, "argument window: expected 0 (unlimited) or a number of keys; got ", window);
    AttentionRef made{std::move(compute), kv};
    Constants& constants = made.constants;
    made.attention = {.layer = layer,
                      .input_norm = constants.norm(input_norm, "input_norm", hidden, eps),
                      .q = constants.matrix(q),
                      .k = constants.matrix(k),
                      .v = constants.matrix(v),
                      .q_norm = constants.norm(q_norm, "q_norm", head_dim, eps),
                      .k_norm = constants.norm(k_norm, "k_norm", head_dim, eps),
                      .scale = scale,
                      .window = window,
                      .rotary = rotary,
                      .o = constants.matrix(o)};
    return made;
}

void run_attention(const AttentionRef& self, Workspace& work) {
    const auto pool = self.kv.open();
    py::gil_scoped_release released;
    self.attention.run(*self.compute, *pool, work);
}

struct MlpRef {
    std::shared_ptr<kernels::Compute> compute;
    Constants constants = {};
    layers::Mlp mlp = {};
};

MlpRef make_mlp(std::shared_ptr<kernels::Compute> compute, int layer, const py::object& norm, float eps,
                const MatrixRef& gate, const MatrixRef& up, const MatrixRef& down) {
    const std::int64_t width = gate.matrix->spec.rows, hidden = gate.matrix->spec.cols;
    require_matrix(*up.matrix, "up", width, hidden);
    require_matrix(*down.matrix, "down", hidden, width);
    MlpRef made{std::move(compute)};
    Constants& constants = made.constants;
    made.mlp = {layer, constants.norm(norm, "norm", hidden, eps), constants.matrix(gate), constants.matrix(up),
                constants.matrix(down)};
    return made;
}

void run_mlp(const MlpRef& self, Workspace& work) {
    py::gil_scoped_release released;
    self.mlp.run(*self.compute, work);
}

struct MoeRef {
    std::shared_ptr<RuntimeSlot> slot;
    Constants constants = {};
    layers::Moe moe = {};
};

MoeRef make_moe(const RuntimeRef& runtime, int layer, const py::object& norm, float eps, const MatrixRef& router,
                int top_k, bool normalise) {
    require(top_k >= 1 && top_k <= router.matrix->spec.rows, ErrorKind::usage, "argument top_k: expected 1 to ",
            router.matrix->spec.rows, ", the number of experts; got ", top_k);
    MoeRef made{runtime.slot};
    made.moe = {.layer = layer,
                .norm = made.constants.norm(norm, "norm", router.matrix->spec.cols, eps),
                .router = made.constants.matrix(router),
                .top_k = top_k,
                .normalise = normalise};
    return made;
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
    Constants constants = {};
    layers::Head head = {};
};

HeadRef make_head(std::shared_ptr<kernels::Compute> compute, const py::object& norm, float eps,
                  const std::vector<MatrixRef>& slices) {
    require(!slices.empty(), ErrorKind::usage, "argument slices: expected at least one Matrix");
    const std::int64_t hidden = slices[0].matrix->spec.cols;
    HeadRef made{std::move(compute)};
    made.head.norm = made.constants.norm(norm, "norm", hidden, eps);
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
        .def(py::init(&make_attention), "compute"_a, "kv"_a, "layer"_a, py::kw_only(), "input_norm"_a, "q"_a, "k"_a,
             "v"_a, "o"_a, "eps"_a, "scale"_a, "window"_a = 0, "q_norm"_a = py::none(), "k_norm"_a = py::none(),
             "rotary"_a = true)
        .def("run", &run_attention, "work"_a);
    py::class_<MlpRef>(module, "MlpLayer", "The feed-forward half of a dense layer.")
        .def(py::init(&make_mlp), "compute"_a, "layer"_a, py::kw_only(), "norm"_a, "eps"_a, "gate"_a, "up"_a, "down"_a)
        .def("run", &run_mlp, "work"_a);
    py::class_<MoeRef>(module, "MoeLayer", "The feed-forward half of a layer with experts.")
        .def(py::init(&make_moe), "runtime"_a, "layer"_a, py::kw_only(), "norm"_a, "eps"_a, "router"_a, "top_k"_a,
             "normalise"_a)
        .def("submit", &submit, "work"_a)
        .def("wait", &wait, "work"_a);
    py::class_<HeadRef>(module, "Head", "The last norm and the output head.")
        .def(py::init(&make_head), "compute"_a, py::kw_only(), "norm"_a, "eps"_a, "slices"_a)
        .def_property_readonly("vocab", [](const HeadRef& self) { return self.head.vocab(); })
        .def("run", &run_head, "work"_a, "rows"_a);
}

}  // namespace moestro::bind
