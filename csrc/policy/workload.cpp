#include "policy/workload.h"

#include <algorithm>

#include "policy/recency.h"

namespace moestro::policy {

namespace {

// Room for records that come and go, so that a layer's misses need not push out what stays: one in so many, at least
// two.
constexpr int kPassingShare = 8, kLeastPassing = 2;

class Workload final : public Eviction {
  public:
    explicit Workload(const ExpertSet& experts) : experts_(experts) {
        for (const ExpertSet::Layer& layer : experts.layers) layers_.emplace_back(layer.experts);
    }

    std::string_view name() const override { return "workload"; }

    void on_capacity(int records) override {
        const int staying = std::max(0, records - std::max(kLeastPassing, records / kPassingShare));
        const int count = static_cast<int>(layers_.size());
        for (int i = 0; i < count; ++i) {
            Layer& layer = layers_[static_cast<std::size_t>(i)];
            layer.quota =
                std::min(staying / count + (i < staying % count ? 1 : 0), static_cast<int>(layer.uses.size()));
            while (layer.staying > layer.quota) stop(layer, coldest(layer), i);
        }
    }
    void on_insert(ExpertId id) override {
        Layer& layer = at(id);
        if (layer.staying < layer.quota && !layer.stays[expert(id)]) start(layer, expert(id), id);
        (layer.stays[expert(id)] ? staying_ : passing_).touch(id);
    }
    void on_use(ExpertId id) override {
        Layer& layer = at(id);
        if (staying_.has(id)) staying_.touch(id);
        if (passing_.has(id)) passing_.touch(id);
        ++layer.uses[expert(id)];
    }
    void on_token() override {
        if (tokens_++ < kWorkloadWindow) return;
        tokens_ = 1;
        for (int i = 0; i < static_cast<int>(layers_.size()); ++i) {
            Layer& layer = layers_[static_cast<std::size_t>(i)];
            swap(layer, i);
            std::fill(layer.uses.begin(), layer.uses.end(), 0);
        }
    }
    void on_evict(ExpertId id) override {
        staying_.erase(id);
        passing_.erase(id);
    }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId>) override {
        const auto passing = passing_.oldest(evictable);
        return passing ? passing : staying_.oldest(evictable);
    }

  private:
    struct Layer {
        explicit Layer(int experts) : uses(static_cast<std::size_t>(experts)), stays(uses.size()) {}
        std::vector<int> uses;    // in this window
        std::vector<char> stays;  // whether it is of the set, resident or not
        int staying = 0, quota = 0;
    };

    static std::size_t expert(ExpertId id) { return static_cast<std::size_t>(id.expert); }
    Layer& at(ExpertId id) { return layers_[experts_.position(id.layer)]; }
    ExpertId id(int position, std::size_t expert) const {
        return {experts_.layers[static_cast<std::size_t>(position)].layer, static_cast<std::int32_t>(expert)};
    }

    void start(Layer& layer, std::size_t number, ExpertId id) {
        layer.stays[number] = 1;
        ++layer.staying;
        if (passing_.erase(id)) staying_.touch(id);
    }
    void stop(Layer& layer, std::size_t number, int position) {
        layer.stays[number] = 0;
        --layer.staying;
        if (staying_.erase(id(position, number))) passing_.touch(id(position, number));
    }
    // Of those that stay, the one least used in this window.
    std::size_t coldest(const Layer& layer) const {
        std::size_t found = layer.uses.size();
        for (std::size_t e = 0; e < layer.uses.size(); ++e)
            if (layer.stays[e] && (found == layer.uses.size() || layer.uses[e] < layer.uses[found])) found = e;
        return found;
    }
    std::size_t hottest_outside(const Layer& layer) const {
        std::size_t found = layer.uses.size();
        for (std::size_t e = 0; e < layer.uses.size(); ++e)
            if (!layer.stays[e] && (found == layer.uses.size() || layer.uses[e] > layer.uses[found])) found = e;
        return found;
    }
    void swap(Layer& layer, int position) {
        for (int n = 0; n < kWorkloadSwaps; ++n) {
            const std::size_t cold = coldest(layer), hot = hottest_outside(layer);
            if (cold == layer.uses.size() || hot == layer.uses.size() || layer.uses[hot] <= layer.uses[cold]) return;
            stop(layer, cold, position);
            start(layer, hot, id(position, hot));
        }
    }

    const ExpertSet experts_;
    std::vector<Layer> layers_;
    Recency staying_, passing_;  // resident
    int tokens_ = 0;             // of this window
};

}  // namespace

std::unique_ptr<Eviction> make_workload(const EvictionSettings& settings) {
    return std::make_unique<Workload>(settings.experts);
}

}  // namespace moestro::policy
