#include "policy/impact.h"

#include <algorithm>

#include "policy/near_miss.h"
#include "policy/planner.h"

namespace moestro::policy {

namespace {

// Gains below this share of a makespan are rounding.
constexpr double kNoGain = 1e-9;

// A later layer as its router would have it.
struct Ahead {
    struct Expert {
        double probability = 0;
        double gain = 0;  // of having it, as things stand; 0 of one that is there
    };
    int layer = 0;
    std::vector<WorkItem> items;  // ascending experts
    std::vector<Expert> experts;  // by item
};

class Impact final : public Predictor {
  public:
    explicit Impact(const ExpertSet& experts) : experts_(experts), planner_(make_planner("hybrid")) {}

    std::string_view name() const override { return "impact"; }
    int lookahead() const override { return kImpactLayers; }

    void on_step(std::span<const std::int32_t>) override { ahead_.clear(); }
    void on_ahead(int, int target, const Thought& thought) override {
        auto found = std::find_if(ahead_.begin(), ahead_.end(), [&](const Ahead& one) { return one.layer == target; });
        if (found == ahead_.end()) found = ahead_.insert(ahead_.end(), Ahead{target, {}, {}});
        expect(thought, *found);
    }

    void predict(int layer, const Outlook& outlook, std::vector<Hint>& hints) override {
        std::erase_if(ahead_, [&](const Ahead& one) { return one.layer <= layer; });
        for (Ahead& ahead : ahead_) {
            for (WorkItem& item : ahead.items)
                item.where = place(outlook.resident({ahead.layer, item.expert}), outlook.costs);
            value(ahead, outlook.costs);
        }
        for (int count = 0; count < kImpactHints; ++count) {
            const auto [ahead, item] = best();
            if (!ahead) return;
            const Ahead::Expert& expert = ahead->experts[item];
            const ExpertId id{ahead->layer, ahead->items[item].expert};
            hints.push_back({id, static_cast<float>(expert.probability), expert.gain});
            ahead->items[item].where = place(true, outlook.costs);
            value(*ahead, outlook.costs);
        }
    }

  private:
    static Where place(bool resident, const LaneCosts& costs) {
        if (costs.has_device) return resident ? Where::device : Where::host;
        return resident ? Where::host : Where::ssd;
    }

    // Rows are those that would choose an expert now; the chance that some row will counts near misses too.
    void expect(const Thought& thought, Ahead& ahead) {
        const auto count = static_cast<std::size_t>(experts_.layers[experts_.position(ahead.layer)].experts);
        rows_.assign(count, 0);
        unused_.assign(count, 1);
        for (int row = 0; row < thought.rows; ++row)
            for (int rank = 0; rank < thought.kept; ++rank) {
                const auto expert = static_cast<std::size_t>(thought.of(row)[static_cast<std::size_t>(rank)].expert);
                if (rank < thought.top_k) ++rows_[expert];
                unused_[expert] *= 1 - static_cast<double>(chance(thought, row, rank));
            }
        ahead.items.clear();
        ahead.experts.clear();
        for (std::size_t expert = 0; expert < count; ++expert) {
            if (rows_[expert] == 0) continue;
            ahead.items.push_back({static_cast<int>(expert), rows_[expert]});
            ahead.experts.push_back({1 - unused_[expert], 0});
        }
    }

    double makespan(const Ahead& ahead, const LaneCosts& costs) {
        planner_->plan({ahead.items, costs, {}}, plan_);
        return plan_.makespan;
    }
    // What each that is not there would save. Those with as many rows save as much: one plan for all of them.
    void value(Ahead& ahead, const LaneCosts& costs) {
        const double now = makespan(ahead, costs);
        for (std::size_t i = 0; i < ahead.items.size(); ++i) {
            WorkItem& item = ahead.items[i];
            double& gain = ahead.experts[i].gain;
            gain = 0;
            if (item.where == place(true, costs)) continue;
            const auto end = ahead.items.begin() + static_cast<std::ptrdiff_t>(i);
            const auto alike = std::find_if(ahead.items.begin(), end, [&](const WorkItem& one) {
                return one.where == item.where && one.rows == item.rows;
            });
            if (alike != end) {
                gain = ahead.experts[static_cast<std::size_t>(alike - ahead.items.begin())].gain;
                continue;
            }
            const Where before = item.where;
            item.where = place(true, costs);
            const double saved = now - makespan(ahead, costs);
            item.where = before;
            gain = saved > now * kNoGain ? saved : 0;
        }
    }

    // The most gain; of equal ones the nearer layer, the likelier expert, the lower number. Nothing where there is
    // none.
    std::pair<Ahead*, std::size_t> best() {
        Ahead* found = nullptr;
        std::size_t item = 0;
        const auto better = [&](const Ahead& ahead, const Ahead::Expert& expert) {
            if (!found) return expert.gain > 0;
            const Ahead::Expert& last = found->experts[item];
            if (expert.gain != last.gain) return expert.gain > last.gain;
            if (ahead.layer != found->layer) return ahead.layer < found->layer;
            return expert.probability > last.probability;
        };
        for (Ahead& ahead : ahead_)
            for (std::size_t i = 0; i < ahead.items.size(); ++i)
                if (better(ahead, ahead.experts[i])) {
                    found = &ahead;
                    item = i;
                }
        return {found, item};
    }

    const ExpertSet experts_;
    const std::unique_ptr<Planner> planner_;
    std::vector<Ahead> ahead_;
    LayerPlan plan_;
    std::vector<int> rows_;       // by expert of one layer
    std::vector<double> unused_;  // chance that no row uses it
};

}  // namespace

std::unique_ptr<Predictor> make_impact(const PredictorSettings& settings) {
    return std::make_unique<Impact>(settings.experts);
}

}  // namespace moestro::policy
