#include "policy/pre_gated.h"

#include "policy/next_layer.h"

namespace moestro::policy {

namespace {

class PreGated final : public NextLayer {
  public:
    explicit PreGated(const ExpertSet& experts) : NextLayer(experts) {}

    std::string_view name() const override { return "pre_gated"; }

  private:
    float probability(const Thought& thought, int, int rank) const override { return rank < thought.top_k ? 1 : 0; }
};

}  // namespace

std::unique_ptr<Predictor> make_pre_gated(const PredictorSettings& settings) {
    return std::make_unique<PreGated>(settings.experts);
}

}  // namespace moestro::policy
