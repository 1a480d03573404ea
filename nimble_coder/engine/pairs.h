// Attention over keys and values in bf16, by the instruction that adds up products of pairs. Part of step.cpp, which alone
// includes it.
//
// Queries are rounded to bf16, and so are the weights of the softmax; sums are floats, and a row's weights are divided by
// the sum of what they were rounded to. Lanes of the scores are queries, so that keys are read as they lie and no sum
// runs across a vector; lanes of the result are dimensions. sight.h says in which order a row has its entries.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "sight.h"
#include "vectors.h"

namespace {

#if defined(__AVX512BF16__)

// --- What AVX-512 has of its own, for vectors of 16 queries and of 8. ---

using Sixteen = __m512;
using Eight = __m256;

// sums + the products of two pairs.
inline Sixteen dot(Sixteen sums, __m512i x, __m512i y) { return _mm512_dpbf16_ps(sums, (__m512bh)x, (__m512bh)y); }
inline Eight dot(Eight sums, __m256i x, __m256i y) { return _mm256_dpbf16_ps(sums, (__m256bh)x, (__m256bh)y); }

// The same pair in all lanes.
inline __m512i spread(int pair, Sixteen) { return _mm512_set1_epi32(pair); }
inline __m256i spread(int pair, Eight) { return _mm256_set1_epi32(pair); }

// Pairs of what an even and an odd entry weigh, rounded.
inline __m512i join(Sixteen even, Sixteen odd) {
    constexpr auto order = [] {
        std::array<uint16_t, 32> words{};
        for (int i = 0; i < 32; ++i) words[i] = i / 2 + i % 2 * 16;
        return words;
    }();
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(order.data()), (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}
inline __m256i join(Eight even, Eight odd) {
    const __m256i order = _mm256_setr_epi16(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    return _mm256_permutexvar_epi16(order, (__m256i)_mm256_cvtne2ps_pbh(odd, even));
}

inline Sixteen whole(Sixteen x) { return _mm512_roundscale_ps(x, 0); }
inline Eight whole(Eight x) { return _mm256_roundscale_ps(x, 0); }
inline Sixteen scale(Sixteen x, Sixteen exponent) { return _mm512_scalef_ps(x, exponent); }
inline Eight scale(Eight x, Eight exponent) { return _mm256_scalef_ps(x, exponent); }

// 2^x to about 3e-6 of its value, 2^0 = 1; 0 where x is far below zero.
template <typename Lanes>
inline Lanes exp2(Lanes x) {
    const Lanes n = whole(x), rest = x - n;
    return scale(exp2_near_zero(rest), n);
}

// The queries of up to kLargest heads and rows that share a head of keys and values, and what becomes of them.
template <>
class Pairs<uint16_t> : public Sight {
   public:
    static constexpr bool kThere = true;

    explicit Pairs(int dim) : dim_(dim), stride_((dim + kTogether - 1) / kTogether * kTogether) {}

    void add_query(const float* query, const int*) {
        const float scale = kLog2E / std::sqrt(float(dim_));
        uint16_t rounded[kMaxDim];
        for (int k = 0; k < dim_; ++k) from_float(query[k] * scale, rounded + k);
        const int index = next_query();
        for (int pair = 0; pair < dim_ / 2; ++pair) std::memcpy(&queries_[pair][index], rounded + 2 * pair, 4);
        std::fill(mixed(index), mixed(index) + stride_, 0.0f);
    }

    // softmax(q k / sqrt(d)) v of all queries.
    void attend(const Kept<uint16_t>& kept) {
        for (int lane = 0; lane < kLargest; ++lane) largest_[lane] = kUnseen, totals_[lane] = 0;
        for (int start = 0, all = seen(); start < all; start += kNear) {
            const int end = std::min(start + kNear, all), shared = std::min(end, common_);
            // Three vectors of queries: 8 keys' products with them take 24 of 32 registers.
            if (count_ > 32) weigh<Sixteen, 3>(kept.keys, start, shared, end);
            else if (count_ > 16) weigh<Sixteen, 2>(kept.keys, start, shared, end);
            else if (count_ > 8) weigh<Sixteen, 1>(kept.keys, start, shared, end);
            else weigh<Eight, 1>(kept.keys, start, shared, end);
            mix(kept.values, start, shared, end);
        }
    }

    // The result of one query, [dim].
    void copy_result(int query, float* to) {
        const float scale = 1 / totals_[query];
        for (int k = 0; k < dim_; k += 4)
            for (int i = 0; i < 4; ++i) to[k + i] = mixed(query)[place_of(k) + i] * scale;
    }

   private:
    static constexpr int kVector = 16, kKeys = 8, kTile = 6;
    static constexpr int kTogether = 4 * kVector;  // dimensions of values that are added up together

    // weights_ of the entries from `start` to `end`, of which all rows see those before `shared`.
    template <typename Lanes, int Vectors>
    void weigh(const uint16_t* keys, int start, int shared, int end) {
        std::fill(nearest_, nearest_ + kLargest, kUnseen);
        for (int i = start; i < shared;)
            if (i + kKeys <= shared) i += score<Lanes, Vectors, kKeys>(keys, start, i);
            else i += score<Lanes, Vectors, 2>(keys, start, i);
        const int first = std::max(start, common_);
        for (int i = first; i < end; ++i) std::fill(scores_[i - start], scores_[i - start] + kLargest, kUnseen);
        for (const Row& row : rows_) score_besides<Lanes>(row, keys, start, first, end);
        soften<Lanes>(end - start);
    }

    // scores_ of `Keys` entries from `first` on, which all rows see; returns how many they are.
    template <typename Lanes, int Vectors, int Keys>
    int score(const uint16_t* keys, int start, int first) {
        const uint16_t* key[Keys];
        for (int j = 0; j < Keys; ++j) key[j] = keys + size_t(first + j) * dim_;
        Lanes sums[Keys][Vectors] = {};
        multiply(key, 0, sums);
        for (int v = 0; v < Vectors; ++v) {
            Lanes& most = *reinterpret_cast<Lanes*>(nearest_ + v * kVector);
            for (int j = 0; j < Keys; ++j) {
                most = sums[j][v] > most ? sums[j][v] : most;
                *reinterpret_cast<Lanes*>(scores_[first - start + j] + v * kVector) = sums[j][v];
            }
        }
        return Keys;
    }

    // scores_ of those from `first` to `end` that a row sees besides.
    template <typename Lanes>
    void score_besides(const Row& row, const uint16_t* keys, int start, int first, int end) {
        constexpr int kFew = 4;
        const int last = std::min(end, row.seen(common_));
        for (int i = first; i < last; i += kFew) {
            const uint16_t* key[kFew];
            for (int j = 0; j < kFew; ++j) key[j] = keys + size_t(position(row, std::min(i + j, last - 1))) * dim_;
            for (int lane = row.first_query / kVector * kVector; lane < row.last_query; lane += kVector) {
                Lanes sums[kFew][1] = {};
                multiply(key, lane, sums);
                for (int j = 0; j < std::min(kFew, last - i); ++j)
                    for (int q = std::max(row.first_query, lane); q < std::min(row.last_query, lane + kVector); ++q) {
                        scores_[i - start + j][q] = sums[j][0][q - lane];
                        nearest_[q] = std::max(nearest_[q], scores_[i - start + j][q]);
                    }
            }
        }
    }

    // sums = key . query for the vectors of queries from `lane` on.
    template <typename Lanes, int Vectors, int Keys>
    void multiply(const uint16_t* const (&key)[Keys], int lane, Lanes (&sums)[Keys][Vectors]) const {
        for (int pair = 0; pair < dim_ / 2; ++pair) {
            decltype(spread(0, Lanes())) query[Vectors];
            for (int v = 0; v < Vectors; ++v) std::memcpy(&query[v], &queries_[pair][lane + v * kVector], sizeof(Lanes));
            for (int j = 0; j < Keys; ++j) {
                int two;
                std::memcpy(&two, key[j] + 2 * pair, 4);
                for (int v = 0; v < Vectors; ++v) sums[j][v] = dot(sums[j][v], query[v], spread(two, Lanes()));
            }
        }
    }

    // weights_ = 2^(score - the largest so far) of `count` scores, and what that makes of the sums before: factors_.
    template <typename Lanes>
    void soften(int count) {
        const auto ones = spread(0x3f803f80, Lanes());
        const auto at = [](float* numbers) -> Lanes& { return *reinterpret_cast<Lanes*>(numbers); };
        for (int lane = 0; lane < count_; lane += kVector) {
            const Lanes before = at(largest_ + lane), near = at(nearest_ + lane), largest = near > before ? near : before;
            const Lanes factor = exp2(before - largest);
            Lanes total = at(totals_ + lane) * factor;
            for (int i = 0; i < count; i += 2) {
                const auto weights =
                    join(exp2(at(scores_[i] + lane) - largest), exp2(at(scores_[i + 1] + lane) - largest));
                total = dot(total, weights, ones);
                std::memcpy(&weights_[i / 2][lane], &weights, sizeof(weights));
            }
            at(largest_ + lane) = largest, at(factors_ + lane) = factor, at(totals_ + lane) = total;
        }
    }

    // mixed_ = factors_ * mixed_ + weights_ * values of the entries from `start` to `end`.
    void mix(const uint16_t* values, int start, int shared, int end) {
        each_few<kTile>(0, count_, [&](auto few, int query) {
            mix_few<few()>(query, &factors_[query], 0, (shared - start) / 2,
                           [&](int i) { return values + size_t(start + i) * dim_; });
        });
        if (end <= common_) return;
        const int first = std::max(start, common_);
        for (const Row& row : rows_) {
            const int last = row.seen(common_);
            each_few<kTile>(row.first_query, row.last_query, [&](auto few, int query) {
                mix_few<few()>(query, nullptr, (first - start) / 2, (std::min(end, last) - start + 1) / 2, [&](int i) {
                    return values + size_t(position(row, std::min(start + i, last - 1))) * dim_;
                });
            });
        }
    }

    // The same for the pairs from `first` to `last` and `Queries` queries; `value` tells where an entry's are.
    template <int Queries, typename Value>
    void mix_few(int query, const float* factors, int first, int last, Value value) {
        for (int k = 0; k < dim_; k += kTogether) {
            Sixteen sums[Queries][4];
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < 4; ++v) {
                    sums[q][v] = _mm512_load_ps(mixed(query + q) + k + v * kVector);
                    if (factors) sums[q][v] = _mm512_mul_ps(sums[q][v], _mm512_set1_ps(factors[q]));
                }
            for (int pair = first; pair < last; ++pair) {
                const uint16_t *even = value(2 * pair) + k, *odd = value(2 * pair + 1) + k;
                __m512i both[4];
                for (int v = 0; v < 4; v += 2) {
                    const __m512i one = _mm512_loadu_si512(even + v * kVector);
                    const __m512i other = _mm512_loadu_si512(odd + v * kVector);
                    both[v] = _mm512_unpacklo_epi16(one, other), both[v + 1] = _mm512_unpackhi_epi16(one, other);
                }
                for (int q = 0; q < Queries; ++q) {
                    const __m512i weights = _mm512_set1_epi32(weights_[pair][query + q]);
                    for (int v = 0; v < 4; ++v) sums[q][v] = dot(sums[q][v], both[v], weights);
                }
            }
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < 4; ++v) _mm512_store_ps(mixed(query + q) + k + v * kVector, sums[q][v]);
        }
    }

    float* mixed(int query) { return mixed_ + query * stride_; }

    const int dim_, stride_;  // what lies behind a smaller head's dimensions is added up too, and nobody reads it
    alignas(64) int queries_[kMaxDim / 2][kLargest];
    alignas(64) float scores_[kNear][kLargest];
    alignas(64) int weights_[kNear / 2][kLargest];  // of pairs of entries
    alignas(64) float largest_[kLargest], nearest_[kLargest], factors_[kLargest], totals_[kLargest];
    alignas(64) float mixed_[kLargest * kMaxDim];  // [queries, stride_], in the order that pairs of values come in
};

#endif

}  // namespace
