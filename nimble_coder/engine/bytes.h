// Attention over keys and values in 8 bits, by the instructions that add up products of integers. Part of step.cpp, which
// alone includes it.
//
// An entry's key has a scale, and its value another. In the few dimensions that most of a score comes from, kFine of a
// head, a key has a second byte for what the first leaves. Queries are rounded to 15 bits, in two bytes, and so is what the
// softmax says of an entry, times the scale of its value, in 15 bits of the largest that is near. Integers are added up
// exactly: what is left that depends on an order are sums over the entries that are near each other, which sight.h makes
// the same for a row wherever it stands. Lanes of the scores are queries; lanes of the result are dimensions.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "sight.h"
#include "vectors.h"

namespace {

typedef int8_t Bytes __attribute__((vector_size(2 * kLanes), aligned(1)));
typedef int16_t Words __attribute__((vector_size(4 * kLanes), aligned(4)));

typedef float Wide __attribute__((vector_size(4 * kLanes)));
// Of up to 8 queries, half a vector is as many as there are.
#if defined(__AVX512VNNI__)
typedef float Narrow __attribute__((vector_size(32)));
constexpr int kAtOnce = 3;  // vectors of queries: 8 keys' products with them take 24 of 32 registers
#else
using Narrow = Wide;
constexpr int kAtOnce = 1;
#endif
template <typename Lanes>
using Whole = decltype(Lanes{} < Lanes{});  // as many integers

// sums + the products of four bytes that are 128 more than they stand for, the same for all lanes, and each lane's four.
inline Whole<Wide> add_fours(Whole<Wide> sums, int four, Whole<Wide> x) {
    return dot(sums, Bits{} + uint32_t(four), x);
}
#if defined(__AVX512VNNI__)
inline Whole<Narrow> add_fours(Whole<Narrow> sums, int four, Whole<Narrow> x) {
    return (Whole<Narrow>)_mm256_dpbusd_epi32((__m256i)sums, _mm256_set1_epi32(four), (__m256i)x);
}
#endif

// sums + the products of each lane's two words and two that are the same for all lanes.
inline Int add_pairs(Int sums, Words words, int two) {
#if defined(__AVX512VNNI__)
    return (Int)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)words, _mm512_set1_epi32(two));
#elif defined(__AVXVNNI__)
    return (Int)_mm256_dpwssd_avx_epi32((__m256i)sums, (__m256i)words, _mm256_set1_epi32(two));
#elif defined(__AVX512BW__)
    return sums + (Int)_mm512_madd_epi16((__m512i)words, _mm512_set1_epi32(two));
#elif defined(__AVX2__)
    return sums + (Int)_mm256_madd_epi16((__m256i)words, _mm256_set1_epi32(two));
#else
    const Int both = reinterpret_cast<Int>(words);
    return sums + (both << 16 >> 16) * int(int16_t(two)) + (both >> 16) * (two >> 16);
#endif
}

// Words of one and the other by turns: of each eight the first four, or the last.
inline Words alternate(Words one, Words other, int half) {
    Words order;
    for (int i = 0; i < 2 * kLanes; ++i) order[i] = i / 8 * 8 + half * 4 + i % 8 / 2 + i % 2 * 2 * kLanes;
    return __builtin_shuffle(one, other, order);
}

// 2^x to about 3e-6 of its value, 2^0 = 1, for x up to 0; 0 where x is far below.
template <typename Lanes>
inline Lanes power_of_two(Lanes x) {
    x = x < -127.0f ? Lanes{} - 127.0f : x;
    const Lanes moved = x + kRound, rest = x - (moved - kRound);
    return exp2_near_zero(rest) * reinterpret_cast<Lanes>((reinterpret_cast<Whole<Lanes>>(moved) + 127) << 23);
}

constexpr int kFine = 8;  // dimensions of a head that have two bytes
constexpr int kFiner = 128;

// What is kept of a value, [dim]; returns the scale.
inline float keep_value(const float* value, int dim, int8_t* bytes) {
    const float largest = largest_of(value, dim);
    round_to(value, inverse_of(largest, 127), dim, bytes);
    return largest / 127;
}

// What is kept of a key, [dim + kFine], of whose dimensions `fine` have two bytes; returns the scale. Bytes are 128 more
// than they stand for: the instructions multiply bytes without a sign and bytes with one.
inline float keep_key(const float* key, int dim, const int* fine, int8_t* bytes) {
    const float scale = keep_value(key, dim, bytes), inverse = inverse_of(scale, 1);
    for (int i = 0; i < kFine; ++i) {
        const float left = (key[fine[i]] * inverse - bytes[fine[i]]) * kFiner;
        bytes[dim + i] = int8_t(std::lrint(std::clamp(left, -127.0f, 127.0f)));
    }
    for (int k = 0; k < dim + kFine; ++k) bytes[k] ^= int8_t(0x80);
    return scale;
}

// The queries of up to kLargest heads and rows that share a head of keys and values, and what becomes of them.
template <>
class Pairs<int8_t> : public Sight {
   public:
    static constexpr bool kThere = true;

    explicit Pairs(int dim) : dim_(dim) {}

    void add_query(const float* query, const int* fine) {
        constexpr float kSteps = 127 * kFiner;
        const float largest = largest_of(query, dim_);
        int16_t rounded[kMaxDim];
        round_to(query, inverse_of(largest, kSteps), dim_, rounded);
        // A query is kFiner * first + second; the second byte of a key counts a kFiner-th of its first.
        int8_t bytes[2][kMaxDim + kFine] = {};
        for (int k = 0; k < dim_; ++k) {
            bytes[0][k] = int8_t((rounded[k] + kFiner / 2) >> 7);
            bytes[1][k] = int8_t(rounded[k] - bytes[0][k] * kFiner);
        }
        for (int i = 0; i < kFine; ++i) bytes[1][dim_ + i] = bytes[0][fine[i]];
        const int index = next_query();
        steps_[index] = largest / kSteps * (kLog2E / std::sqrt(float(dim_)));
        for (int part = 0; part < 2; ++part) {
            starts_[part][index] = 0;
            for (int k = 0; k < dim_ + kFine; ++k) starts_[part][index] -= 128 * bytes[part][k];
            for (int four = 0; four < (dim_ + kFine) / 4; ++four)
                std::memcpy(&queries_[part][four][index], bytes[part] + 4 * four, 4);
        }
        std::fill(mixed_[index], mixed_[index] + dim_, 0.0f);
    }

    // softmax(q k / sqrt(d)) v of all queries.
    void attend(const Kept<int8_t>& kept) {
        for (int lane = 0; lane < kLargest; ++lane) largest_[lane] = kUnseen, totals_[lane] = 0;
        for (int start = 0, all = seen(); start < all; start += kNear) {
            const int end = std::min(start + kNear, all), shared = std::min(end, common_);
            if (count_ <= kLanesOf<Narrow>) weigh<Narrow>(kept, start, shared, end);
            else weigh<Wide>(kept, start, shared, end);
            mix(kept.values, start, shared, end);
        }
    }

    // The result of one query, [dim].
    void copy_result(int query, float* to) {
        const float scale = 1 / totals_[query];
        for (int k = 0; k < dim_; k += 4)
            for (int i = 0; i < 4; ++i) to[k + i] = mixed_[query][place_of(k) + i] * scale;
    }

   private:
    static constexpr int kKeys = 8, kTile = kLanes == 8 ? 5 : 12;
    static constexpr float kMost = 32767;  // of what the softmax says, rounded
    template <typename Lanes>
    static constexpr int kLanesOf = sizeof(Lanes) / sizeof(float);

    // weights_ of the entries from `start` to `end`, of which all rows see those before `shared`.
    template <typename Lanes>
    void weigh(const Kept<int8_t>& kept, int start, int shared, int end) {
        constexpr int kHere = kLanesOf<Lanes>, kVectors = std::is_same_v<Lanes, Wide> ? kAtOnce : 1;
        std::fill(nearest_, nearest_ + kLargest, kUnseen);
        for (int lane = 0; lane < count_; lane += kVectors * kHere)
            each_of<kVectors>((count_ - lane + kHere - 1) / kHere, lane, [&](auto vectors, int) {
                for (int i = start; i < shared;)
                    if (i + kKeys <= shared) i += score<Lanes, vectors(), kKeys>(kept, start, i, lane);
                    else i += score<Lanes, vectors(), 2>(kept, start, i, lane);
            });
        const int first = std::max(start, common_);
        for (int i = first; i < end; ++i) {
            std::fill(scores_[i - start], scores_[i - start] + kLargest, kUnseen);
            std::fill(scales_[i - start], scales_[i - start] + kLargest, 0.0f);
        }
        for (const Row& row : rows_) score_besides<Lanes>(row, kept, start, first, end);
        soften<Lanes>(kept.value_scales + start, std::max(shared - start, 0), end - start);
    }

    // scores_ of `Keys` entries from `first` on, which all rows see; returns how many they are.
    template <typename Lanes, int Vectors, int Keys>
    int score(const Kept<int8_t>& kept, int start, int first, int lane) {
        const int8_t* key[Keys];
        for (int j = 0; j < Keys; ++j) key[j] = kept.keys + size_t(first + j) * (dim_ + kFine);
        Whole<Lanes> sums[Keys][Vectors];
        multiply<Lanes>(key, lane, sums);
        for (int v = 0; v < Vectors; ++v) {
            const int at = lane + v * kLanesOf<Lanes>;
            Lanes most = from<Lanes>(nearest_ + at);
            for (int j = 0; j < Keys; ++j) {
                const Lanes found = scaled<Lanes>(sums[j][v], kept.key_scales[first + j], at);
                most = found > most ? found : most;
                std::memcpy(scores_[first - start + j] + at, &found, sizeof(found));
            }
            std::memcpy(nearest_ + at, &most, sizeof(most));
        }
        return Keys;
    }

    // scores_ of those from `first` to `end` that a row sees besides, and scales_ of their values.
    template <typename Lanes>
    void score_besides(const Row& row, const Kept<int8_t>& kept, int start, int first, int end) {
        constexpr int kFew = 4, kHere = kLanesOf<Lanes>;
        const int last = std::min(end, row.seen(common_));
        for (int i = first; i < last; i += kFew) {
            int places[kFew];
            const int8_t* key[kFew];
            for (int j = 0; j < kFew; ++j) {
                places[j] = position(row, std::min(i + j, last - 1));
                key[j] = kept.keys + size_t(places[j]) * (dim_ + kFine);
            }
            for (int lane = row.first_query / kHere * kHere; lane < row.last_query; lane += kHere) {
                Whole<Lanes> sums[kFew][1];
                multiply<Lanes>(key, lane, sums);
                for (int j = 0; j < std::min(kFew, last - i); ++j) {
                    const Lanes found = scaled<Lanes>(sums[j][0], kept.key_scales[places[j]], lane);
                    for (int q = std::max(row.first_query, lane); q < std::min(row.last_query, lane + kHere); ++q) {
                        scores_[i - start + j][q] = found[q - lane];
                        scales_[i - start + j][q] = kept.value_scales[places[j]];
                        nearest_[q] = std::max(nearest_[q], found[q - lane]);
                    }
                }
            }
        }
    }

    // sums = key . query for the vectors of queries from `lane` on: first what their first bytes say, then the rest.
    template <typename Lanes, int Vectors, int Keys>
    void multiply(const int8_t* const (&key)[Keys], int lane, Whole<Lanes> (&sums)[Keys][Vectors]) const {
        for (int v = 0; v < Vectors; ++v)
            for (int j = 0; j < Keys; ++j) sums[j][v] = from<Whole<Lanes>>(starts_[0] + lane + v * kLanesOf<Lanes>);
        add_part<Lanes>(key, lane, queries_[0], dim_ / 4, sums);
        for (int v = 0; v < Vectors; ++v)
            for (int j = 0; j < Keys; ++j)
                sums[j][v] = sums[j][v] * kFiner + from<Whole<Lanes>>(starts_[1] + lane + v * kLanesOf<Lanes>);
        add_part<Lanes>(key, lane, queries_[1], (dim_ + kFine) / 4, sums);
    }

    template <typename Lanes, int Vectors, int Keys>
    static void add_part(const int8_t* const (&key)[Keys], int lane, const int (*queries)[kLargest], int fours,
                         Whole<Lanes> (&sums)[Keys][Vectors]) {
        for (int four = 0; four < fours; ++four) {
            Whole<Lanes> query[Vectors];
            for (int v = 0; v < Vectors; ++v) query[v] = from<Whole<Lanes>>(&queries[four][lane + v * kLanesOf<Lanes>]);
            for (int j = 0; j < Keys; ++j) {
                int bytes;
                std::memcpy(&bytes, key[j] + 4 * four, 4);
                for (int v = 0; v < Vectors; ++v) sums[j][v] = add_fours(sums[j][v], bytes, query[v]);
            }
        }
    }

    template <typename Lanes>
    Lanes scaled(Whole<Lanes> sums, float scale, int lane) const {
        return __builtin_convertvector(sums, Lanes) * scale * from<Lanes>(steps_ + lane);
    }

    // weights_ = 2^(score - the largest so far) * the value's scale of `count` scores, of which the first have `scales`
    // and the others scales_; and what that makes of the sums before: factors_.
    template <typename Lanes>
    void soften(const float* scales, int shared, int count) {
        const auto at = [](auto* numbers) -> Lanes& { return *reinterpret_cast<Lanes*>(numbers); };
        for (int lane = 0; lane < count_; lane += kLanesOf<Lanes>) {
            const Lanes before = at(largest_ + lane), near = at(nearest_ + lane), largest = near > before ? near : before;
            const Lanes factor = power_of_two(before - largest);
            Lanes total = at(totals_ + lane) * factor, most{};
            for (int i = 0; i < count; ++i) {
                const Lanes weight = power_of_two(at(scores_[i] + lane) - largest);
                const Lanes product = weight * (i < shared ? Lanes{} + scales[i] : at(scales_[i] + lane));
                total += weight;
                most = product > most ? product : most;
                at(scores_[i] + lane) = product;
            }
            const Lanes inverse = most > 1e-30f ? kMost / most : Lanes{};
            const auto rounded = [&](int i) {
                return reinterpret_cast<Whole<Lanes>>(at(scores_[i] + lane) * inverse + kRound);
            };
            for (int i = 0; i < count; i += 2) {
                const Whole<Lanes> two = (rounded(i) & 0xffff) | rounded(i + 1) << 16;
                std::memcpy(&weights_[i / 2][lane], &two, sizeof(two));
            }
            at(largest_ + lane) = largest, at(factors_ + lane) = factor, at(totals_ + lane) = total;
            at(units_ + lane) = most / kMost;
        }
    }

    // mixed_ = factors_ * mixed_ + weights_ * values of the entries from `start` to `end`.
    void mix(const int8_t* values, int start, int shared, int end) {
        each_few<kTile>(0, count_, [&](auto few, int query) {
            mix_few<few()>(query, true, 0, (shared - start) / 2,
                           [&](int i) { return values + size_t(start + i) * dim_; });
        });
        const int first = std::max(start, common_);
        if (end > common_)
            for (const Row& row : rows_) {
                const int last = row.seen(common_);
                each_few<kTile>(row.first_query, row.last_query, [&](auto few, int query) {
                    mix_few<few()>(query, false, (first - start) / 2, (std::min(end, last) - start + 1) / 2, [&](int i) {
                        return values + size_t(position(row, std::min(start + i, last - 1))) * dim_;
                    });
                });
            }
        for (int query = 0; query < count_; ++query)
            for (int k = 0; k < dim_; k += kLanes)
                store(mixed_[query] + k, load(mixed_[query] + k) * factors_[query] +
                                             __builtin_convertvector(from<Int>(near_[query] + k), Vec) * units_[query]);
    }

    // near_ = the sums of the pairs from `first` to `last` for `Queries` queries, added to what is there unless that is
    // `fresh`; `value` tells where an entry's are.
    template <int Queries, typename Value>
    void mix_few(int query, bool fresh, int first, int last, Value value) {
        for (int k = 0; k < dim_; k += 2 * kLanes) {
            Int sums[Queries][2];
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < 2; ++v) sums[q][v] = fresh ? Int{} : from<Int>(near_[query + q] + k + v * kLanes);
            for (int pair = first; pair < last; ++pair) {
                const Words even = words(value(2 * pair) + k), odd = words(value(2 * pair + 1) + k);
                const Words both[2] = {alternate(even, odd, 0), alternate(even, odd, 1)};
                for (int q = 0; q < Queries; ++q)
                    for (int v = 0; v < 2; ++v) sums[q][v] = add_pairs(sums[q][v], both[v], weights_[pair][query + q]);
            }
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < 2; ++v) std::memcpy(near_[query + q] + k + v * kLanes, &sums[q][v], sizeof(Int));
        }
    }

    static Words words(const int8_t* bytes) {
        return __builtin_convertvector(*reinterpret_cast<const Bytes*>(bytes), Words);
    }

    template <typename Vector, typename Number>
    static Vector from(const Number* numbers) {
        Vector vector;
        std::memcpy(&vector, numbers, sizeof(vector));
        return vector;
    }

    const int dim_;
    alignas(64) int queries_[2][(kMaxDim + kFine) / 4][kLargest] = {};
    alignas(64) int starts_[2][kLargest] = {};  // -128 times the sum of a query's bytes
    alignas(64) float steps_[kLargest] = {};    // what a query's sum is multiplied by, in a score's unit
    alignas(64) float scores_[kNear][kLargest] = {}, scales_[kNear][kLargest] = {};
    alignas(64) int weights_[kNear / 2][kLargest] = {};
    alignas(64) float largest_[kLargest] = {}, nearest_[kLargest] = {}, factors_[kLargest] = {}, totals_[kLargest] = {};
    alignas(64) float units_[kLargest] = {};          // what near_ is multiplied by
    alignas(64) int near_[kLargest][kMaxDim];         // both in the order that pairs of values come in
    alignas(64) float mixed_[kLargest][kMaxDim];
};

}  // namespace
