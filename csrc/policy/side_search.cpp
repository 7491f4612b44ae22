#include "policy/side_search.h"

namespace moestro::policy {

namespace {

// In items looked at, all changes together: it bounds a plan of 64 experts to some 40 us (bench/policies).
constexpr int kEffort = 3000;

}  // namespace

void SideSearch::start(RankedWork& work) {
    work_ = &work;
    effort_ = kEffort;
}

double SideSearch::move(Sides& sides) {
    begin(sides);
    while (move_any()) continue;
    return now_.makespan();
}

double SideSearch::swap(Sides& sides) {
    begin(sides);
    while (move_any() || swap_any() || send_sooner_any()) continue;
    return now_.makespan();
}

double SideSearch::exchange(Sides& sides) {
    begin(sides);
    while (move_any() || swap_any() || send_sooner_any() || exchange_any()) continue;
    return now_.makespan();
}

void SideSearch::begin(Sides& sides) {
    sides_ = &sides;
    now_ = look();
}

bool SideSearch::move_any(int but) {
    bool any = false;
    for (int rank = 0; rank < work_->count() && !over(); ++rank) {
        if (rank == but || work_->bound(rank) || repeats(rank) || !promises(changed(now_.load, rank))) continue;
        flip(rank);
        if (better())
            any = true;
        else
            flip(rank);
    }
    return any;
}

bool SideSearch::swap_any() {
    for (int one = 0; one < work_->count(); ++one) {
        if (work_->bound(one) || repeats(one)) continue;
        const Load without = changed(now_.load, one);
        for (int other = one + 1; other < work_->count() && !over(); ++other) {
            // The first of those alike may have changed with the one; then the second stands for the rest.
            if (work_->bound(other) || (other > one + 1 && repeats(other))) continue;
            if (!promises(changed(without, other))) continue;
            flip(one);
            flip(other);
            if (better()) return true;
            flip(one);
            flip(other);
        }
    }
    return false;
}

bool SideSearch::send_sooner_any() {
    for (std::size_t i = 1; i < sides_->link.size() && !over(); ++i)
        if (sides_->link[i] >= work_->reads() && !on_cpu(sides_->link[i]) && send_sooner(i)) return true;
    return false;
}

// The link may better wait for a record with many rows than be busy with one with few when it has been read. There is
// no use in that for records that the device computes sooner.
bool SideSearch::send_sooner(std::size_t position) {
    std::vector<int>& link = sides_->link;
    const auto at = [&](std::size_t place) { return link.begin() + static_cast<std::ptrdiff_t>(place); };
    const int read = link[position];
    for (std::size_t to = position; to > 0 && !over();) {
        const int host = link[--to];
        if (host >= work_->reads()) return false;
        if (on_cpu(host)) continue;
        if (work_->device(host) >= work_->device(read)) return false;
        std::rotate(at(to), at(position), at(position + 1));
        if (better()) return true;
        std::rotate(at(to), at(to + 1), at(position + 1));
    }
    return false;
}

bool SideSearch::exchange_any() {
    const Finish before = now_;
    before_.assign(sides_->on_cpu.begin(), sides_->on_cpu.end());
    for (int rank = 0; rank < work_->count() && !over(); ++rank) {
        if (work_->bound(rank) || repeats(rank)) continue;
        flip(rank);
        now_ = look();
        while (move_any(rank)) continue;
        if (now_.makespan() < before.makespan() * kGain) return true;
        now_ = before;
        sides_->on_cpu.assign(before_.begin(), before_.end());
    }
    return false;
}

// The one before it would change in the same way.
bool SideSearch::repeats(int rank) const {
    return rank > 0 && work_->alike(rank - 1, rank) && on_cpu(rank - 1) == on_cpu(rank);
}

Load SideSearch::changed(const Load& load, int rank) const {
    Load after = load;
    work_->change(after, rank, !on_cpu(rank));
    return after;
}

// Most changes are ruled out by the load alone.
bool SideSearch::promises(const Load& load) {
    --effort_;
    return work_->least(load) < now_.makespan() * kGain;
}

Finish SideSearch::look() {
    effort_ -= work_->count();
    return work_->finish(*sides_);
}

bool SideSearch::better() {
    const Finish finish = look();
    if (finish.makespan() >= now_.makespan() * kGain) return false;
    now_ = finish;
    return true;
}

}  // namespace moestro::policy
