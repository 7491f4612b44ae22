#include "policy/no_prediction.h"

namespace moestro::policy {

namespace {

class NoPrediction final : public Predictor {
  public:
    std::string_view name() const override { return "none"; }
    void predict(int, const Outlook&, std::vector<Hint>&) override {}
};

}  // namespace

std::unique_ptr<Predictor> make_no_prediction(const PredictorSettings&) {
    return std::make_unique<NoPrediction>();
}

}  // namespace moestro::policy
