#include "policy/path.h"

#include <algorithm>

#include "base/error.h"
#include "policy/path_model.h"
#include "policy/row_union.h"
#include "policy/upcoming.h"

namespace moestro::policy {

namespace {

class Path final : public Predictor {
  public:
    explicit Path(const PredictorSettings& settings)
        : experts_(settings.experts),
          model_(settings.experts, settings.path),
          width_(static_cast<std::size_t>(model_.width())),
          accepted_(width_) {}

    std::string_view name() const override { return "path"; }

    void on_token(std::int32_t token) override { model_.read(token, accepted_); }

    void on_step(std::span<const std::int32_t> tokens) override {
        rows_ = std::min<std::size_t>(kPathRows, tokens.size());
        states_.resize(rows_ * width_);
        std::vector<float> context = accepted_;
        for (std::size_t row = 0; row < rows_; ++row) {
            model_.read(tokens[row], context);
            model_.begin(tokens[row], context, state(row));
        }
    }
    void on_routing(int layer, const Chosen& chosen) override {
        MOESTRO_CHECK(static_cast<std::size_t>(chosen.rows) >= rows_);
        for (std::size_t row = 0; row < rows_; ++row)
            model_.correct(experts_.position(layer), chosen.of(static_cast<int>(row)), state(row));
    }
    void predict(int layer, const Outlook&, std::vector<Hint>& hints) override {
        const Positions ahead = upcoming(experts_, layer, kHorizon);
        for (std::size_t position = ahead.first; position < ahead.last; ++position) {
            const ExpertSet::Layer& target = experts_.layers[position];
            RowUnion expected(target.experts);
            probabilities_.resize(static_cast<std::size_t>(target.experts));
            for (std::size_t row = 0; row < rows_; ++row) {
                model_.probabilities(position, state(row), probabilities_);
                for (std::int32_t expert = 0; expert < target.experts; ++expert)
                    expected.add(expert, probabilities_[static_cast<std::size_t>(expert)]);
            }
            expected.append(target.layer, kLeastPath, hints);
        }
    }

  private:
    std::span<float> state(std::size_t row) { return std::span(states_).subspan(row * width_, width_); }

    const ExpertSet experts_;
    PathModel model_;
    const std::size_t width_;
    std::vector<float> accepted_;  // context
    std::size_t rows_ = 0;         // of the step, as many as are followed
    std::vector<float> states_;    // [rows, width]
    std::vector<float> probabilities_;
};

}  // namespace

std::unique_ptr<Predictor> make_path(const PredictorSettings& settings) {
    return std::make_unique<Path>(settings);
}

}  // namespace moestro::policy
