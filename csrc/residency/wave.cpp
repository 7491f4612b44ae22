#include "residency/wave.h"

#include "base/error.h"

namespace moestro::residency {

void Wave::begin(ExpertCache& cache, std::span<const ExpertId> ids) {
    pin_present(cache, ids);
    acquire();
}

void Wave::pin_present(ExpertCache& cache, std::span<const ExpertId> ids) {
    end();
    cache_ = &cache;
    items_.resize(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        items_[i].id = ids[i];
        items_[i].stage = Stage::todo;
        items_[i].found = cache.state(ids[i]);
    }
    todo_ = left_ = size();
    pin_all_present();
}

void Wave::end() {
    items_.clear();  // unpins
    order_.clear();
    oldest_ = 0;
    todo_ = pinned_ = left_ = 0;
}

void Wave::acquire() {
    if (todo_ == 0) return;
    pin_all_present();
    for (int item = 0; item < size(); ++item)
        if (stage(item) == Stage::todo && !start(item)) break;
    cache_->flush();
}

void Wave::pin_all_present() {
    for (Item& item : items_)
        if (item.stage == Stage::todo && cache_->state(item.id) != State::absent) pin(item);
}

bool Wave::start(int item) {
    Item& started = items_[at(item)];
    MOESTRO_CHECK(started.stage == Stage::todo);
    if (cache_->state(started.id) == State::absent && !cache_->start_load(started.id, true)) return false;
    pin(started);
    return true;
}

void Wave::pin(Item& item) {
    item.pin = cache_->pin(item.id);
    item.stage = Stage::pinned;
    order_.push_back(static_cast<int>(&item - items_.data()));
    --todo_;
    ++pinned_;
}

void Wave::done(int item) {
    MOESTRO_CHECK(items_[at(item)].stage == Stage::pinned);
    items_[at(item)].stage = Stage::done;
    --pinned_;
    --left_;
    while (give_up_oldest()) acquire();
}

bool Wave::give_up_oldest() {
    if (oldest_ == order_.size()) return false;
    Item& item = items_[at(order_[oldest_])];
    if (item.stage != Stage::done) return false;
    item.pin.reset();
    ++oldest_;
    return true;
}

bool Wave::disarm() {
    const bool any = pinned_ > 0;
    for (; oldest_ < order_.size(); ++oldest_) {
        Item& item = items_[at(order_[oldest_])];
        item.pin.reset();
        if (item.stage != Stage::pinned) continue;
        item.stage = Stage::todo;
        ++todo_;
    }
    pinned_ = 0;
    return any;
}

}  // namespace moestro::residency
