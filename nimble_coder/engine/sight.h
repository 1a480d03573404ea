// Which entries of the cache a few rows of one sequence see, for attention that takes several queries at once. Part of
// step.cpp, which alone includes it.
//
// A row's entries are counted from its sequence's first on: entry 2n is the partner of entry 2n + 1, and every kNear
// entries the sums are scaled to the largest score so far. Both depend on nothing but the row's own tokens, wherever in
// the cache those entries lie and however many of them other rows see too. Partners that are not there weigh zero.

#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int kLargest = 48;       // queries at once
constexpr float kUnseen = -1e30f;  // the score of an entry that is not seen
constexpr float kLog2E = 1.44269504f;

// Where the k-th dimension of a result is: of 2 kLanes the first vector has the first four of each eight, the second the
// others, which is the order that pairs of values come in.
inline int place_of(int k) {
    constexpr int kBoth = 2 * kLanes;
    return k / kBoth * kBoth + k / 4 % 2 * kLanes + k % kBoth / 8 * 4 + k % 4;
}

// Keys and values of one sequence and head, [entries, head_dim]; of those in 8 bits also the scales, [entries], and keys
// have kFine numbers more.
template <typename Entry>
struct Kept {
    const Entry *keys, *values;
    const float *key_scales, *value_scales;
};

// Of entries that are taken one by one, there is none.
template <typename Entry>
struct Pairs {
    static constexpr bool kThere = false;

    explicit Pairs(int) {}
};

// The rows whose queries are computed together.
class Sight {
   public:
    // Begins with no queries. All of them see the entries before `common`, an even number.
    void clear(int common) {
        count_ = 0, common_ = common;
        rows_.clear();
        tail_.clear();
    }

    // Begins a row; its queries follow, and the entries that it sees from `common` on, oldest first.
    void add_row() { rows_.push_back({count_, count_, int(tail_.size()), int(tail_.size())}); }
    void add_entry(int position) {
        tail_.push_back(position);
        rows_.back().last_entry = tail_.size();
    }

   protected:
    static constexpr int kNear = 128;  // entries whose scores and values the processor keeps near

    struct Row {
        int first_query, last_query, first_entry, last_entry;  // the entries, in tail_

        int seen(int common) const { return common + last_entry - first_entry; }
    };

    // Makes room for one more query, and tells its index.
    int next_query() {
        rows_.back().last_query = count_ + 1;
        return count_++;
    }

    // As many entries as the row sees that sees most, and one more where that is odd.
    int seen() const {
        int most = 0;
        for (const Row& row : rows_) most = std::max(most, (row.seen(common_) + 1) / 2 * 2);
        return most;
    }

    // Where a row's entry is.
    int position(const Row& row, int entry) const {
        return entry < common_ ? entry : tail_[row.first_entry + entry - common_];
    }

    // Calls visit(few, query) for tiles of `few` queries, `Tile` at most, as many in each as in the others or one less.
    template <int Tile, typename Visit>
    static void each_few(int first, int last, Visit visit) {
        const int count = last - first, tiles = (count + Tile - 1) / Tile;
        for (int tile = 0; tile < tiles; ++tile) {
            const int query = first + count * tile / tiles;
            each_of<Tile>(first + count * (tile + 1) / tiles - query, query, visit);
        }
    }

    // Calls visit(few, query), `few` known when this is compiled.
    template <int Few, typename Visit>
    static void each_of(int few, int query, Visit visit) {
        if constexpr (Few > 1)
            if (few < Few) return each_of<Few - 1>(few, query, visit);
        visit(std::integral_constant<int, Few>(), query);
    }

    int count_ = 0, common_ = 0;
    std::vector<Row> rows_;
    std::vector<int> tail_;  // the rows' entries from common_ on
};

}  // namespace
