#include "policy/by_reach.h"

#include <algorithm>

#include "policy/impact.h"
#include "policy/next_gate.h"

namespace moestro::policy {

namespace {

// A layer's time wavers; around it the near one is the better guess.
constexpr double kFar = 1.5;

// Tells both everything, and asks one.
class ByReach final : public Predictor {
  public:
    explicit ByReach(const PredictorSettings& settings)
        : near_(make_next_gate(settings)), far_(make_impact(settings)) {}
    std::string_view name() const override { return "auto"; }

    int lookahead() const override { return std::max(near_->lookahead(), far_->lookahead()); }
    void on_step(std::span<const std::int32_t> tokens) override {
        for (Predictor* one : {near_.get(), far_.get()}) one->on_step(tokens);
    }
    void on_routing(int layer, const Chosen& chosen) override {
        for (Predictor* one : {near_.get(), far_.get()}) one->on_routing(layer, chosen);
    }
    void on_ahead(int layer, int target, const Thought& thought) override {
        for (Predictor* one : {near_.get(), far_.get()}) one->on_ahead(layer, target, thought);
    }
    void predict(int layer, const Outlook& outlook, std::vector<Hint>& hints) override {
        (outlook.record_ns > kFar * outlook.layer_ns ? *far_ : *near_).predict(layer, outlook, hints);
    }
    void on_token(std::int32_t token) override {
        for (Predictor* one : {near_.get(), far_.get()}) one->on_token(token);
    }
    void on_use(ExpertId id) override {
        for (Predictor* one : {near_.get(), far_.get()}) one->on_use(id);
    }

  private:
    const std::unique_ptr<Predictor> near_, far_;
};

}  // namespace

std::unique_ptr<Predictor> make_by_reach(const PredictorSettings& settings) {
    return std::make_unique<ByReach>(settings);
}

}  // namespace moestro::policy
