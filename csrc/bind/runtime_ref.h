// How Python holds a Runtime. Shared by the files that bind it.
#pragma once

#include <memory>
#include <vector>

#include "bind/bind.h"
#include "bind/tensor_view.h"

namespace moestro::bind {

// Python's Runtime: layers are collected one call at a time and handed over by set_experts.
struct RuntimeRef {
    std::shared_ptr<RuntimeSlot> slot = std::make_shared<RuntimeSlot>();
    std::vector<engine::ExpertLayer> layers;
};

// Python's Ticket: keeps the input alive until the work was waited for.
struct TicketRef {
    engine::Ticket ticket;
    View<const float> x;
};

using RuntimeClass = py::class_<RuntimeRef>;
void bind_loading(RuntimeClass& runtime);  // open_file, load_*, add_expert_layer_*, set_*
void bind_memory(py::module_& module);     // Ledger, KvPool

}  // namespace moestro::bind
