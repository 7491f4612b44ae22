#include "policy/activation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "policy/activation_collection.h"
#include "policy/routing_table.h"
#include "policy/upcoming.h"

namespace moestro::policy {

namespace {

class Activation final : public Predictor {
  public:
    explicit Activation(const PredictorSettings& settings)
        : experts_(settings.experts),
          top_k_(settings.top_k),
          collection_(settings.experts.experts(), kActivationMatrices) {
        std::int32_t first = 0;
        for (const ExpertSet::Layer& layer : experts_.layers) {
            first_.push_back(first);
            first += layer.experts;
        }
        first_.push_back(first);
        for (std::size_t token = 0; token < settings.trace.tokens.size(); ++token) {
            for (std::size_t position = 0; position < experts_.layers.size(); ++position)
                for (const std::int32_t expert : chosen_by(settings.trace, position, token))
                    token_.push_back(first_[position] + expert);
            learn();
        }
    }

    std::string_view name() const override { return "activation"; }

    void on_token(std::int32_t) override { learn(); }
    void on_use(ExpertId id) override { token_.push_back(first_[experts_.position(id.layer)] + id.expert); }

    void on_step(std::span<const std::int32_t> tokens) override {
        learn();
        rows_ = static_cast<int>(tokens.size());
        seen_squared_ = 0;
        shared_.assign(static_cast<std::size_t>(collection_.size()), 0);
        begun_.assign(shared_.size(), 0);
    }
    void on_routing(int layer, const Chosen& chosen) override {
        MOESTRO_CHECK(shared_.size() == static_cast<std::size_t>(collection_.size()));
        const std::size_t position = experts_.position(layer);
        const std::int32_t first = first_[position];
        counts_.assign(static_cast<std::size_t>(experts_.layers[position].experts), 0);
        for (const std::int32_t expert : chosen.ids) ++counts_[static_cast<std::size_t>(expert)];
        for (std::size_t expert = 0; expert < counts_.size(); ++expert) {
            const double count = counts_[expert];
            seen_squared_ += count * count;
            for (const std::uint16_t matrix : collection_.holders(first + static_cast<std::int32_t>(expert))) {
                shared_[matrix] += count;
                ++begun_[matrix];
            }
        }
    }
    void predict(int layer, const Outlook&, std::vector<Hint>& hints) override {
        if (layer < 0 || !match()) return;
        const Positions ahead = upcoming(experts_, layer, kHorizon);
        for (std::size_t position = ahead.first; position < ahead.last; ++position) expect(position, hints);
    }

  private:
    struct Match {
        int matrix = 0;
        double cosine = 0, weight = 0;
    };

    // A token is complete when the next one or a step begins.
    void learn() {
        if (token_.empty()) return;
        std::sort(token_.begin(), token_.end());
        token_.erase(std::unique(token_.begin(), token_.end()), token_.end());
        collection_.add(token_);
        token_.clear();
    }

    // False when nothing is like what the step used so far.
    bool match() {
        matches_.clear();
        for (std::size_t matrix = 0; matrix < shared_.size(); ++matrix)
            if (shared_[matrix] > 0)
                matches_.push_back(
                    {static_cast<int>(matrix), shared_[matrix] / std::sqrt(seen_squared_ * begun_[matrix]), 0});
        const std::size_t count = std::min<std::size_t>(kActivationMatches, matches_.size());
        std::partial_sort(matches_.begin(), matches_.begin() + static_cast<std::ptrdiff_t>(count), matches_.end(),
                          [](const Match& one, const Match& other) {
                              return one.cosine != other.cosine ? one.cosine > other.cosine : one.matrix < other.matrix;
                          });
        matches_.resize(count);
        for (Match& match : matches_) match.weight = std::pow(match.cosine, kActivationPower);
        return count > 0;
    }

    void expect(std::size_t position, std::vector<Hint>& hints) {
        const std::int32_t first = first_[position], last = first_[position + 1];
        average_.assign(static_cast<std::size_t>(last - first), 0);
        for (const Match& match : matches_) {
            const auto used = collection_.used(match.matrix);
            for (auto one = std::lower_bound(used.begin(), used.end(), first); one != used.end() && *one < last; ++one)
                average_[static_cast<std::size_t>(*one - first)] += match.weight;
        }
        const double sum = std::accumulate(average_.begin(), average_.end(), 0.0);
        for (std::size_t expert = 0; expert < average_.size(); ++expert) {
            if (average_[expert] == 0) continue;
            const double of_row = std::min(1.0, average_[expert] / sum * top_k_[position]);
            const auto probability = static_cast<float>(1 - std::pow(1 - of_row, rows_));
            if (probability >= kLeastActivation)
                hints.push_back({.id = {experts_.layers[position].layer, static_cast<std::int32_t>(expert)},
                                 .probability = probability});
        }
    }

    const ExpertSet experts_;
    const std::vector<int> top_k_;
    std::vector<std::int32_t> first_;  // number of a layer's first expert, and of all
    ActivationCollection collection_;
    std::vector<std::int32_t> token_;  // what the token used that is being told of

    // Of the step, in the layers seen so far:
    int rows_ = 0;
    double seen_squared_ = 0;           // the square of the length of its counts
    std::vector<double> shared_;        // their product with each matrix
    std::vector<std::int32_t> begun_;   // how many experts each matrix holds there
    std::vector<std::int32_t> counts_;  // rows by expert, in one layer
    std::vector<Match> matches_;        // best first
    std::vector<double> average_;       // by expert, in one layer
};

}  // namespace

std::unique_ptr<Predictor> make_activation(const PredictorSettings& settings) {
    require_table("activation", settings);
    return std::make_unique<Activation>(settings);
}

}  // namespace moestro::policy
