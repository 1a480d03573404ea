// Vectors of floats and integers, as wide as the instruction set that the step is compiled for.
//
// Part of step.cpp, which alone includes it. bf16 is a uint16_t, the upper half of a float.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

constexpr int kMaxDim = 256;  // of an attention head

typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int32_t Int __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint16_t Half __attribute__((vector_size(2 * kLanes), aligned(2)));

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline Vec load(const uint16_t* from) {
#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC 12 would convert one half of the vector and then the other
    const Bits wide = (Bits)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    const Bits wide = __builtin_convertvector(*reinterpret_cast<const Half*>(from), Bits);
#endif
    return reinterpret_cast<Vec>(wide << 16);
}
inline void store(float* to, Vec value) { *reinterpret_cast<Vec*>(to) = value; }

inline float to_float(float value) { return value; }
inline float to_float(uint16_t value) {
    const uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

inline void from_float(float value, float* to) { *to = value; }
inline void from_float(float value, uint16_t* to) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    *to = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The sum of all lanes, halves added to each other again and again.
inline float sum(Vec v) {
    float parts[kLanes];
    store(parts, v);
    for (int width = kLanes / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
    return parts[0];
}

// [sum(v[0]), sum(v[1]), ...] of kLanes vectors at once, in the order of `sum`. Size: of the parts that are halved.
template <int Size = 2>
inline __attribute__((always_inline)) Vec sums(const Vec* v) {
    Int low, high;
    for (int lane = 0; lane < kLanes; ++lane) {
        low[lane] = lane / (Size / 2) * Size + lane % (Size / 2);
        high[lane] = low[lane] + Size / 2;
    }
    Vec first, second;
    if constexpr (Size == kLanes) {
        first = v[0], second = v[1];
    } else {
        first = sums<Size * 2>(v), second = sums<Size * 2>(v + kLanes / Size);
    }
    return __builtin_shuffle(first, second, low) + __builtin_shuffle(first, second, high);
}

// sum + w . x, of four weights of each lane and its four bytes: the weights from 0 to 255, the bytes signed.
inline Int dot(Int sum, Bits w, Int x) {
#if defined(__AVX512VNNI__)
    return (Int)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(__AVXVNNI__)
    return (Int)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
#elif defined(__AVX512BW__)  // pairs of products need more than 16 bits
    const __m512i all = (__m512i)x, weights = (__m512i)w;
    const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8), odd = _mm512_srai_epi16(all, 8);
    return sum + (Int)_mm512_madd_epi16(_mm512_and_si512(weights, _mm512_set1_epi16(0xff)), even) +
           (Int)_mm512_madd_epi16(_mm512_srli_epi16(weights, 8), odd);
#elif defined(__AVX2__)
    const __m256i all = (__m256i)x, weights = (__m256i)w;
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), odd = _mm256_srai_epi16(all, 8);
    return sum + (Int)_mm256_madd_epi16(_mm256_and_si256(weights, _mm256_set1_epi16(0xff)), even) +
           (Int)_mm256_madd_epi16(_mm256_srli_epi16(weights, 8), odd);
#else
    for (int i = 0; i < 32; i += 8) sum += (Int)(w >> i & 0xff) * (x << (24 - i) >> 24);
    return sum;
#endif
}

#if (defined(__AVX512BW__) && !defined(__AVX512VNNI__)) || (defined(__AVX2__) && !defined(__AVX512F__) && !defined(__AVXVNNI__))
#define NIMBLE_PAIRS
typedef int16_t Shorts __attribute__((vector_size(4 * kLanes), aligned(4)));

// Two products each of weights below 128 and signed bytes, and the sums of two such.
inline Shorts pairs(Bits w, Int x) {
#if defined(__AVX512BW__)
    return (Shorts)_mm512_maddubs_epi16((__m512i)w, (__m512i)x);
#else
    return (Shorts)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
#endif
}
inline Int fours(Shorts pairs) {
#if defined(__AVX512BW__)
    return (Int)_mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(1));
#else
    return (Int)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(1));
#endif
}
#if !defined(__AVX512F__)
#define NIMBLE_SIGNS

// Of weights from 1 to 255, which stand for 128 less, so that 16 bits hold two products.
inline Shorts signed_pairs(Bits w, Int x) {
    const __m256i from_middle = (__m256i)(w ^ 0x80808080u);
    return (Shorts)_mm256_maddubs_epi16(_mm256_abs_epi8(from_middle), _mm256_sign_epi8((__m256i)x, from_middle));
}
#endif
#endif

constexpr float kRound = 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer, which the lowest bits are then

// In every lane what `join` makes of all lanes, by twos and again; the same in whichever order.
template <int Apart = kLanes / 2, typename Vector, typename Join>
inline Vector joined(Vector v, Join join) {
    const auto other = [&]<int... Lane>(std::integer_sequence<int, Lane...>) {
        return __builtin_shuffle(v, Int{(Lane ^ Apart)...});
    }(std::make_integer_sequence<int, kLanes>());
    v = join(v, other);
    if constexpr (Apart > 1) return joined<Apart / 2>(v, join);
    return v;
}

inline float largest_of(const float* x, int count) {
    const auto larger = [](Vec one, Vec other) { return other > one ? other : one; };
    Vec most{};
    for (int k = 0; k < count; k += kLanes) most = larger(most, load(x + k) < 0 ? -load(x + k) : load(x + k));
    return joined(most, larger)[0];
}

inline float inverse_of(float largest, float steps) { return largest > 1e-30f ? steps / largest : 0; }

// Numbers rounded to integers, as many as fill vectors; returns the sum of each lane's.
template <typename Number>
inline Int round_to(const float* x, float inverse, int count, Number* to) {
    typedef Number Numbers __attribute__((vector_size(kLanes * sizeof(Number)), aligned(1)));
    Int sums{};
    for (int k = 0; k < count; k += kLanes) {
        const Int rounded = reinterpret_cast<Int>(load(x + k) * inverse + kRound) - reinterpret_cast<Int>(Vec{} + kRound);
        *reinterpret_cast<Numbers*>(to + k) = __builtin_convertvector(rounded, Numbers);
        sums += rounded;
    }
    return sums;
}

// 2^x to about 3e-6 of its value, 2^0 = 1, for x from -1/2 to 1/2.
template <typename Lanes>
inline Lanes exp2_near_zero(Lanes x) {
    Lanes series = Lanes{} + 9.58285e-3f;
    for (float factor : {5.590643e-2f, 0.24024099f, 0.69312419f, 1.0f}) series = series * x + factor;
    return series;
}

// e^x to about 1e-7 of its value: 2^n, and the Taylor series of what is left.
inline Vec exp(Vec x) {
    x = x < -87.0f ? Vec{} - 87.0f : x;
    x = x > 88.0f ? Vec{} + 88.0f : x;
    const Vec scaled = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
    const Vec n = scaled - 12582912.0f;
    const Vec rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec series = Vec{} + 1.98412698e-4f;
    for (float factor : {1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f, 1.66666667e-1f, 0.5f, 1.0f, 1.0f})
        series = series * rest + factor;
    const Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
    return series * reinterpret_cast<Vec>(exponent);
}

}  // namespace
