#include "policy/shallow.h"

#include <algorithm>

#include "base/error.h"
#include "policy/arc.h"

namespace moestro::policy {

namespace {

class Shallow final : public Eviction {
  public:
    explicit Shallow(const ExpertSet& experts) : experts_(experts), layers_(experts.layers.size()) {}

    std::string_view name() const override { return "shallow"; }

    void on_capacity(int records) override {
        const std::vector<int> quotas = shallow_quotas(experts_, records);
        for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i].set_capacity(quotas[i]);
    }
    void on_insert(ExpertId id) override { at(id).insert(id); }
    void on_use(ExpertId id) override { at(id).use(id); }
    void on_evict(ExpertId id) override { at(id).evict(id); }

    // A layer that has its share makes room for its own; otherwise the one that is furthest above its share, deeper
    // ones first, gives one up.
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId> incoming) override {
        if (incoming) {
            Arc& own = at(*incoming);
            if (own.resident() > 0 && own.resident() >= own.capacity())
                if (const auto found = own.victim(evictable, incoming)) return found;
        }
        std::vector<Arc*> order;
        for (std::size_t i = layers_.size(); i-- > 0;) order.push_back(&layers_[i]);
        std::stable_sort(order.begin(), order.end(), [](const Arc* one, const Arc* other) {
            return one->resident() - one->capacity() > other->resident() - other->capacity();
        });
        for (Arc* layer : order)
            if (const auto found = layer->victim(evictable, std::nullopt)) return found;
        return std::nullopt;
    }

  private:
    Arc& at(ExpertId id) { return layers_[experts_.position(id.layer)]; }

    const ExpertSet experts_;
    std::vector<Arc> layers_;
};

}  // namespace

std::vector<int> shallow_quotas(const ExpertSet& experts, int records) {
    const auto& layers = experts.layers;
    const std::size_t first = std::min<std::size_t>(kShallowLayers, layers.size());
    std::vector<int> quotas(layers.size());
    int left = records;
    for (std::size_t i = 0; i < first; ++i) {
        quotas[i] = std::min(left, layers[i].experts);
        left -= quotas[i];
    }
    const std::size_t deeper = layers.size() - first;
    for (std::size_t i = first; i < layers.size(); ++i) {
        const int share = left / static_cast<int>(deeper), more = left % static_cast<int>(deeper);
        quotas[i] = std::min(share + (static_cast<int>(i - first) < more ? 1 : 0), layers[i].experts);
    }
    return quotas;
}

std::unique_ptr<Eviction> make_shallow(const EvictionSettings& settings) {
    return std::make_unique<Shallow>(settings.experts);
}

}  // namespace moestro::policy
