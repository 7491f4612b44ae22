#include "policy/next_gate.h"

#include "policy/near_miss.h"
#include "policy/next_layer.h"

namespace moestro::policy {

namespace {

class NextGate final : public NextLayer {
  public:
    explicit NextGate(const ExpertSet& experts) : NextLayer(experts) {}

    std::string_view name() const override { return "next_gate"; }

  private:
    float probability(const Thought& thought, int row, int rank) const override {
        const float one = chance(thought, row, rank);
        return one >= kNearMiss ? one : 0;
    }
};

}  // namespace

std::unique_ptr<Predictor> make_next_gate(const PredictorSettings& settings) {
    return std::make_unique<NextGate>(settings.experts);
}

}  // namespace moestro::policy
