#include "policy/path_model.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moestro::policy {

namespace {

void require_size(std::string_view name, const std::vector<float>& values, std::size_t rows, std::size_t columns) {
    require(values.size() == rows * columns, ErrorKind::usage, "predictor \"path\": ", name, " must be [", rows, ", ",
            columns, "], ", rows * columns, " values; got ", values.size());
}

float dot(std::span<const float> one, std::span<const float> other) {
    float sum = 0;
    for (std::size_t i = 0; i < one.size(); ++i) sum += one[i] * other[i];
    return sum;
}

std::span<const float> row_of(const std::vector<float>& matrix, std::size_t row, std::size_t columns) {
    return std::span(matrix).subspan(row * columns, columns);
}

}  // namespace

PathModel::PathModel(const ExpertSet& experts, const PathWeights& weights)
    : weights_(weights), unknown_(static_cast<std::size_t>(std::max(0, weights.width))) {
    require(weights.width > 0 && weights.vocabulary > 0, ErrorKind::usage,
            "predictor \"path\" needs weights that were trained on a trace of this model: expected a width and a "
            "vocabulary of at least 1; got ",
            weights.width, " and ", weights.vocabulary);
    const auto width = static_cast<std::size_t>(weights.width);
    const auto all = static_cast<std::size_t>(experts.experts());
    require_size("embedding", weights.embedding, static_cast<std::size_t>(weights.vocabulary), width);
    require_size("hidden", weights.hidden, width, 2 * width);
    require_size("hidden_bias", weights.hidden_bias, width, 1);
    require_size("output", weights.output, all, width);
    require_size("output_bias", weights.output_bias, all, 1);
    require_size("correction", weights.correction, all, width);
    first_.push_back(0);
    for (const ExpertSet::Layer& layer : experts.layers)
        first_.push_back(first_.back() + static_cast<std::size_t>(layer.experts));
}

std::span<const float> PathModel::embedding(std::int32_t token) const {
    if (token < 0 || token >= weights_.vocabulary) return unknown_;
    return row_of(weights_.embedding, static_cast<std::size_t>(token), unknown_.size());
}

void PathModel::read(std::int32_t token, std::span<float> context) const {
    const auto read = embedding(token);
    for (std::size_t i = 0; i < context.size(); ++i)
        context[i] = kContextDecay * context[i] + (1 - kContextDecay) * read[i];
}

void PathModel::begin(std::int32_t token, std::span<const float> context, std::span<float> state) const {
    const auto read = embedding(token);
    for (std::size_t i = 0; i < state.size(); ++i) {
        const auto weights = row_of(weights_.hidden, i, 2 * state.size());
        state[i] = std::tanh(weights_.hidden_bias[i] + dot(weights.first(state.size()), read) +
                             dot(weights.last(state.size()), context));
    }
}

void PathModel::probabilities(std::size_t position, std::span<const float> state, std::span<float> out) const {
    for (std::size_t expert = 0; expert < out.size(); ++expert) {
        const std::size_t number = first_[position] + expert;
        const float logit = weights_.output_bias[number] + dot(row_of(weights_.output, number, state.size()), state);
        out[expert] = 1 / (1 + std::exp(-logit));
    }
}

void PathModel::correct(std::size_t position, std::span<const std::int32_t> chosen, std::span<float> state) {
    errors_.resize(first_[position + 1] - first_[position]);
    probabilities(position, state, errors_);
    for (float& error : errors_) error = -error;
    for (const std::int32_t expert : chosen) errors_[static_cast<std::size_t>(expert)] += 1;
    for (std::size_t expert = 0; expert < errors_.size(); ++expert) {
        const auto correction = row_of(weights_.correction, first_[position] + expert, state.size());
        for (std::size_t i = 0; i < state.size(); ++i) state[i] += errors_[expert] * correction[i];
    }
}

}  // namespace moestro::policy
