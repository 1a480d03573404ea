// Attention over keys and values in bf16, by the instruction that adds up products of pairs. Part of step.cpp, which alone
// includes it.
//
// Queries are rounded to bf16, and so are the weights of the softmax; sums are floats, and a row's weights are divided by
// the sum of what they were rounded to. Lanes of the scores are queries, so that keys are read as they lie and no sum
// runs across a vector; lanes of the result are dimensions.
//
// A row's entries are counted from its sequence's first on: entry 2n is the partner of entry 2n + 1, and every kNear
// entries the sums are scaled to the largest score so far. Both depend on nothing but the row's own tokens, wherever in
// the cache those entries lie and however many of them other rows see too. Partners that are not there weigh zero.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

// Of other entries, and without the instruction, there is none.
template <typename Entry>
struct Pairs {
    static constexpr bool kThere = false;

    explicit Pairs(int) {}
};

#if defined(__AVX512BF16__)

// 2^x to about 3e-6 of its value, 2^0 = 1; 0 where x is far below zero.
inline __m512 exp2(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, 0), rest = _mm512_sub_ps(x, whole);
    __m512 series = _mm512_set1_ps(9.58285e-3f);
    for (float factor : {5.590643e-2f, 0.24024099f, 0.69312419f, 1.0f})
        series = _mm512_fmadd_ps(series, rest, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(series, whole);
}

// The queries of up to kLargest heads and rows that share a head of keys and values, and what becomes of them.
template <>
class Pairs<uint16_t> {
   public:
    static constexpr bool kThere = true;
    static constexpr int kLargest = 48;  // three vectors: 8 keys' products with them take 24 of 32 registers

    explicit Pairs(int dim) : dim_(dim) {}

    // Begins with no queries. All of them see the entries before `common`, an even number.
    void clear(int common) {
        count_ = 0, common_ = common;
        rows_.clear();
        tail_.clear();
    }

    // Begins a row; its queries follow, and the entries that it sees from `common` on, oldest first.
    void add_row() { rows_.push_back({count_, count_, int(tail_.size()), int(tail_.size())}); }
    void add_query(const float* query) {
        constexpr float kLog2E = 1.44269504f;
        const float scale = kLog2E / std::sqrt(float(dim_));
        uint16_t rounded[kMaxDim];
        for (int k = 0; k < dim_; ++k) from_float(query[k] * scale, rounded + k);
        for (int pair = 0; pair < dim_ / 2; ++pair) std::memcpy(&queries_[pair][count_], rounded + 2 * pair, 4);
        std::fill(mixed(count_), mixed(count_) + dim_, 0.0f);
        rows_.back().last_query = ++count_;
    }
    void add_entry(int position) {
        tail_.push_back(position);
        rows_.back().last_entry = tail_.size();
    }

    // softmax(q k / sqrt(d)) v of all queries.
    void attend(const uint16_t* keys, const uint16_t* values) {
        for (int lane = 0; lane < kLargest; ++lane) largest_[lane] = kLeast, totals_[lane] = 0;
        int longest = 0;
        for (const Row& row : rows_) longest = std::max(longest, row.last_entry - row.first_entry);
        for (int start = 0; start < common_ + longest; start += kNear) {
            const int end = std::min(start + kNear, (common_ + longest + 1) / 2 * 2), shared = std::min(end, common_);
            if (count_ > 32) score<3>(keys, start, shared, end);
            else if (count_ > 16) score<2>(keys, start, shared, end);
            else score<1>(keys, start, shared, end);
            soften(end - start);
            mix(values, start, shared, end);
        }
    }

    // The result of one query, [dim].
    void copy_result(int query, float* to) {
        // Of 32 dimensions the first vector has the first four of each eight, the second the others.
        const float scale = 1 / totals_[query];
        for (int k = 0; k < dim_; k += 4)
            for (int i = 0; i < 4; ++i)
                to[k + i] = mixed(query)[k / 32 * 32 + k / 4 % 2 * 16 + k % 32 / 8 * 4 + i] * scale;
    }

   private:
    static constexpr int kNear = 128;  // entries whose scores and values the processor keeps near
    static constexpr int kVector = 16, kKeys = 8, kTile = 6;
    static constexpr float kLeast = -1e30f;  // the score of what is not seen

    struct Row {
        int first_query, last_query, first_entry, last_entry;
    };

    // scores_ of the entries from `start` to `end`, and the largest of them. All rows see those before `shared`.
    template <int Vectors>
    void score(const uint16_t* keys, int start, int shared, int end) {
        std::fill(nearest_, nearest_ + kLargest, kLeast);
        int i = start;
        const auto step = [&](auto few) {
            const uint16_t* key[few()];
            for (int j = 0; j < few(); ++j) key[j] = keys + size_t(i + j) * dim_;
            multiply<Vectors, few()>(key, few(), 0, i - start, ~0);
            i += few();
        };
        while (i + kKeys <= shared) step(std::integral_constant<int, kKeys>());
        while (i < shared) step(std::integral_constant<int, 2>());
        const int first = std::max(start, common_);
        for (int unseen = first; unseen < end; ++unseen)
            std::fill(scores_[unseen - start], scores_[unseen - start] + kLargest, kLeast);
        for (const Row& row : rows_) score_tail(row, keys, first, start, end);
    }

    // The same for those that a row sees besides, from `first` on.
    void score_tail(const Row& row, const uint16_t* keys, int first, int start, int end) {
        constexpr int kFew = 4;
        const int last = std::min(end, common_ + row.last_entry - row.first_entry);
        for (int i = first; i < last; i += kFew) {
            const uint16_t* key[kFew];
            for (int j = 0; j < kFew; ++j) key[j] = keys + size_t(position(row, std::min(i + j, last - 1))) * dim_;
            for (int lane = row.first_query / kVector * kVector; lane < row.last_query; lane += kVector) {
                const int from = std::max(row.first_query - lane, 0), to = std::min(row.last_query - lane, kVector);
                multiply<1, kFew>(key, std::min(kFew, last - i), lane, i - start, (1u << to) - (1u << from));
            }
        }
    }

    // scores_ of `Keys` entries from `to` on, of which `count` are stored, of the queries from `lane` on.
    template <int Vectors, int Keys>
    void multiply(const uint16_t* const* key, int count, int lane, int to, __mmask16 wanted) {
        __m512 sums[Keys][Vectors] = {};
        for (int pair = 0; pair < dim_ / 2; ++pair) {
            __m512bh query[Vectors];
            for (int v = 0; v < Vectors; ++v)
                query[v] = (__m512bh)_mm512_load_si512(&queries_[pair][lane + v * kVector]);
            for (int j = 0; j < Keys; ++j) {
                int two;
                std::memcpy(&two, key[j] + 2 * pair, 4);
                for (int v = 0; v < Vectors; ++v)
                    sums[j][v] = _mm512_dpbf16_ps(sums[j][v], query[v], (__m512bh)_mm512_set1_epi32(two));
            }
        }
        for (int v = 0; v < Vectors; ++v) {
            float* largest = &nearest_[lane + v * kVector];
            __m512 most = _mm512_load_ps(largest);
            for (int j = 0; j < Keys && j < count; ++j) {
                most = _mm512_mask_max_ps(most, wanted, most, sums[j][v]);
                _mm512_mask_store_ps(&scores_[to + j][lane + v * kVector], wanted, sums[j][v]);
            }
            _mm512_store_ps(largest, most);
        }
    }

    // weights_ = 2^(score - the largest so far) of `count` scores, and what that makes of the sums before: factors_.
    void soften(int count) {
        alignas(64) uint16_t order[2 * kVector];
        for (int i = 0; i < 2 * kVector; ++i) order[i] = i / 2 + i % 2 * kVector;
        const __m512i interleaved = _mm512_load_si512(order);
        const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
        for (int lane = 0; lane < count_; lane += kVector) {
            const __m512 before = _mm512_load_ps(&largest_[lane]);
            const __m512 largest = _mm512_max_ps(before, _mm512_load_ps(&nearest_[lane]));
            const __m512 factor = exp2(_mm512_sub_ps(before, largest));
            __m512 total = _mm512_mul_ps(_mm512_load_ps(&totals_[lane]), factor);
            for (int i = 0; i < count; i += 2) {
                const __m512 even = exp2(_mm512_sub_ps(_mm512_load_ps(&scores_[i][lane]), largest));
                const __m512 odd = exp2(_mm512_sub_ps(_mm512_load_ps(&scores_[i + 1][lane]), largest));
                const __m512i two =
                    _mm512_permutexvar_epi16(interleaved, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
                total = _mm512_dpbf16_ps(total, (__m512bh)two, ones);
                _mm512_store_si512(&weights_[i / 2][lane], two);
            }
            _mm512_store_ps(&largest_[lane], largest);
            _mm512_store_ps(&factors_[lane], factor);
            _mm512_store_ps(&totals_[lane], total);
        }
    }

    // mixed_ = factors_ * mixed_ + weights_ * values of the entries from `start` to `end`.
    void mix(const uint16_t* values, int start, int shared, int end) {
        each_few(0, count_, [&](auto few, int query) {
            mix_few<few()>(query, &factors_[query], 0, (shared - start) / 2,
                           [&](int i) { return values + size_t(start + i) * dim_; });
        });
        if (end <= common_) return;
        const int first = std::max(start, common_);
        for (const Row& row : rows_) {
            const int last = common_ + row.last_entry - row.first_entry;
            each_few(row.first_query, row.last_query, [&](auto few, int query) {
                mix_few<few()>(query, nullptr, (first - start) / 2, (std::min(end, last) - start + 1) / 2, [&](int i) {
                    return values + size_t(position(row, std::min(start + i, last - 1))) * dim_;
                });
            });
        }
    }

    // The same for the pairs from `first` to `last` and `Queries` queries; `value` tells where an entry's are.
    template <int Queries, typename Value>
    void mix_few(int query, const float* factors, int first, int last, Value value) {
        for (int k = 0; k < dim_; k += 4 * kVector) {
            __m512 sums[Queries][4];
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < 4; ++v) {
                    sums[q][v] = _mm512_load_ps(mixed(query + q) + k + v * kVector);
                    if (factors) sums[q][v] = _mm512_mul_ps(sums[q][v], _mm512_set1_ps(factors[q]));
                }
            for (int pair = first; pair < last; ++pair) {
                const uint16_t *even = value(2 * pair) + k, *odd = value(2 * pair + 1) + k;
                __m512bh both[4];
                for (int v = 0; v < 4; v += 2) {
                    const __m512i one = _mm512_loadu_si512(even + v * kVector), other = _mm512_loadu_si512(odd + v * kVector);
                    both[v] = (__m512bh)_mm512_unpacklo_epi16(one, other);
                    both[v + 1] = (__m512bh)_mm512_unpackhi_epi16(one, other);
                }
                for (int q = 0; q < Queries; ++q) {
                    const __m512bh weights = (__m512bh)_mm512_set1_epi32(weights_[pair][query + q]);
                    for (int v = 0; v < 4; ++v) sums[q][v] = _mm512_dpbf16_ps(sums[q][v], weights, both[v]);
                }
            }
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < 4; ++v) _mm512_store_ps(mixed(query + q) + k + v * kVector, sums[q][v]);
        }
    }

    // Calls visit(few, query) for tiles of `few` queries, as many in each as in the others or one less.
    template <typename Visit>
    static void each_few(int first, int last, Visit visit) {
        const int count = last - first, tiles = (count + kTile - 1) / kTile;
        for (int tile = 0; tile < tiles; ++tile) {
            const int query = first + count * tile / tiles;
            each_of<kTile>(first + count * (tile + 1) / tiles - query, query, visit);
        }
    }

    template <int Few, typename Visit>
    static void each_of(int few, int query, Visit visit) {
        if constexpr (Few > 1)
            if (few < Few) return each_of<Few - 1>(few, query, visit);
        visit(std::integral_constant<int, Few>(), query);
    }

    // Where a row's entry is that is not before common_.
    int position(const Row& row, int entry) const {
        return entry < common_ ? entry : tail_[row.first_entry + entry - common_];
    }

    float* mixed(int query) { return mixed_ + query * dim_; }

    const int dim_;
    int count_ = 0, common_ = 0;
    std::vector<Row> rows_;
    std::vector<int> tail_;  // the rows' entries from common_ on
    alignas(64) int queries_[kMaxDim / 2][kLargest];
    alignas(64) float scores_[kNear][kLargest];
    alignas(64) int weights_[kNear / 2][kLargest];  // of pairs of entries
    alignas(64) float largest_[kLargest], nearest_[kLargest], factors_[kLargest], totals_[kLargest];
    alignas(64) float mixed_[kLargest * kMaxDim];  // [queries, dim], in the order that pairs of values come in
};

#endif

}  // namespace
