// Matrices that multiply the rows of a step, in the formats that build_engine/packing.py writes. Part of step.cpp, which
// alone includes it.
//
// A matrix lies in panels of 16 outputs on every processor, so that one file serves all of them. Nothing is copied: the
// weights stay where the file is mapped. A format says how a panel lies, what it multiplies, and how.
//
// What lies side by side in a vector are outputs, not terms of a sum: a row's products do not depend on the rows beside
// it. Integers are added up exactly; groups of them, as floats, in their order.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string_view>

#include "team.h"
#include "vectors.h"

namespace {

constexpr int kPanel = 16;                // outputs of a panel
constexpr int kTogether = 32;             // numbers of a row that are rounded together
constexpr int kAhead = 32;                // inputs that are multiplied between two calls of `Ahead::bring`
constexpr int kVectors = kPanel / kLanes;  // of a panel
constexpr int kAny = std::numeric_limits<int>::max();

// Panels that are multiplied together, so that as many streams come from the memory at once: by few rows, and by more than
// many.
struct Joined {
    int panels, few, many;

    constexpr bool by(int rows) const { return rows <= few || rows > many; }
};

#if defined(__AVX512F__)
constexpr int kTileFloat = 6, kTileBytes = 6;  // rows that are multiplied together
constexpr int kAloneBf16 = kTileFloat;         // most rows of bf16 that are one tile: more are two or more
constexpr size_t kMostAhead = 384;             // bytes that a tile brings near: more take longer than it
constexpr Joined kJoinedFloat{4, kAny, kAny};  // of 32 registers 24 have sums, 4 weights, 1 an input
// 12 have sums of a group, 12 of all groups. Five or six rows are one tile of a panel alone: less is computed between two
// reads of the memory, so that the processor gets further ahead with reading.
template <int WeightBits>
constexpr Joined kJoinedBytes{2, 4, 6};
#elif defined(__AVX2__)
constexpr int kTileFloat = 6, kTileBytes = 6;
constexpr int kAloneBf16 = 4;  // two tiles of three rows bring the next panel near, and one of six waits for it
constexpr size_t kMostAhead = 512;
constexpr Joined kJoinedFloat{2, 4, kAny};  // of more rows, 16 registers do not have the sums
template <int WeightBits>
constexpr Joined kJoinedBytes{2, WeightBits == 4 ? 4 : 2, kAny};
#else
constexpr int kTileFloat = 6, kTileBytes = 4;
constexpr int kAloneBf16 = kTileFloat;
constexpr size_t kMostAhead = 384;
constexpr Joined kJoinedFloat{1, kAny, kAny};
template <int WeightBits>
constexpr Joined kJoinedBytes{1, kAny, kAny};
#endif

// Products of `rows` rows from `row` on and `outputs` outputs from `first` on, a row's `kPanel` behind each other's.
struct Products {
    int row, rows, first, outputs;
    const float* values;

    const float* of(int index) const { return values + index * kPanel; }
};

using Sink = std::function<void(const Products&)>;

// [out, in]. Rows of input are in the matrix's own form, `stride` bytes from each other.
class Matrix {
   public:
    virtual ~Matrix() = default;

    int out() const { return out_; }

    // Bytes of a row of input.
    virtual size_t stride() const = 0;

    // Writes numbers `first` (a multiple of kTogether) to `first + count` of a row of input.
    virtual void take(const float* x, int first, int count, std::byte* row) const = 0;

    // Gives `sink` this part's outputs of rows @ weight.T + bias.
    virtual void multiply(Part part, const std::byte* rows, int count, const Sink& sink) const = 0;

    // The same of a matrix of two halves, which kTogether divides: of kPanel outputs those of the first half, for all rows,
    // before those of the second.
    virtual void multiply_halves(Part part, const std::byte* rows, int count, const Sink& sink) const = 0;

    // The weights of one output, as floats.
    virtual void copy_row(int row, float* to) const = 0;

   protected:
    Matrix(int out, int in) : out_(out), in_(in) {}

    const int out_, in_;
};

// Weights that the processor brings near while others are multiplied: `each` bytes of a panel, in lines of 64, for kAhead
// inputs.
struct Ahead {
    const std::byte* from;
    size_t apart, each;

    template <int Panels>
    void bring(int input) const {
        const std::byte* next = from + input / kAhead * each;
        for (size_t line = 0; line < each; line += 64)
            for (int panel = 0; panel < Panels; ++panel) __builtin_prefetch(next + panel * apart + line);
    }
};

// None: few rows wait for the memory as it is, and a loop that has this in it waits longer.
struct Nothing {
    template <int Panels>
    void bring(int) const {}
};

// --- Formats. ---

// [inputs, 16 outputs] of a panel.
struct Fp32 {
    static constexpr Joined kJoined = kJoinedFloat;
    static constexpr int kTile = kTileFloat, kAlone = kTile;

    static size_t panel_bytes(int in) { return sizeof(float) * kPanel * in; }
    static size_t row_bytes(int in) { return sizeof(float) * in; }

    static void take(const float* x, int first, int count, int, std::byte* row) {
        std::memcpy(reinterpret_cast<float*>(row) + first, x, sizeof(float) * count);
    }

    static void copy_row(const std::byte* panel, int output, int in, float* to) {
        for (int k = 0; k < in; ++k) to[k] = reinterpret_cast<const float*>(panel)[k * kPanel + output];
    }

    template <int Rows, int Panels, typename Next>
    static void accumulate(const std::byte* rows, size_t stride, const std::byte* panels, size_t apart, int in,
                           const Next& next, Vec (&sums)[Rows][Panels * kVectors]) {
        for (int k = 0; k < in; ++k, panels += sizeof(float) * kPanel) {
            if (k % kAhead == 0) next.template bring<Panels>(k);
            Vec w[Panels * kVectors];
            for (int v = 0; v < Panels * kVectors; ++v)
                w[v] = load(reinterpret_cast<const float*>(panels + v / kVectors * apart) + v % kVectors * kLanes);
            for (int row = 0; row < Rows; ++row)
                for (int v = 0; v < Panels * kVectors; ++v)
                    sums[row][v] += reinterpret_cast<const float*>(rows + row * stride)[k] * w[v];
        }
    }
};

// [pairs of inputs, 16 outputs, 2] of a panel. Multiplies bf16 where there are instructions for pairs of them, else floats.
struct Bf16 {
    static constexpr Joined kJoined = kJoinedFloat;
    static constexpr int kTile = kTileFloat, kAlone = kAloneBf16;
#if defined(__AVX512BF16__)
    using X = uint16_t;
#else
    using X = float;
#endif

    static int padded(int in) { return (in + 1) / 2 * 2; }
    static size_t panel_bytes(int in) { return sizeof(uint16_t) * kPanel * padded(in); }
    static size_t row_bytes(int in) { return sizeof(X) * padded(in); }

    static void take(const float* x, int first, int count, int in, std::byte* row) {
        X* to = reinterpret_cast<X*>(row);
        for (int i = 0; i < count; ++i) from_float(x[i], to + first + i);
        if (in % 2) to[in] = 0;
    }

    static void copy_row(const std::byte* panel, int output, int in, float* to) {
        const uint16_t* from = reinterpret_cast<const uint16_t*>(panel) + 2 * output;
        for (int k = 0; k < in; ++k) to[k] = to_float(from[k / 2 * 2 * kPanel + k % 2]);
    }

    template <int Rows, int Panels, typename Next>
    static void accumulate(const std::byte* rows, size_t stride, const std::byte* panels, size_t apart, int in,
                           const Next& next, Vec (&sums)[Rows][Panels * kVectors]) {
        for (int k = 0; k < in; k += 2, panels += 2 * sizeof(uint16_t) * kPanel) {
            if (k % kAhead == 0) next.template bring<Panels>(k);
            Bits w[Panels * kVectors];
            for (int v = 0; v < Panels * kVectors; ++v)
                w[v] = *reinterpret_cast<const Bits*>(panels + v / kVectors * apart + v % kVectors * sizeof(Bits));
#if defined(__AVX512BF16__)
            for (int row = 0; row < Rows; ++row) {
                int pair;
                std::memcpy(&pair, rows + row * stride + k * sizeof(X), 4);
                for (int v = 0; v < Panels * kVectors; ++v)
                    sums[row][v] = (Vec)_mm512_dpbf16_ps((__m512)sums[row][v], (__m512bh)_mm512_set1_epi32(pair),
                                                         (__m512bh)w[v]);
            }
#else
            for (int odd = 0; odd < 2; ++odd)
                for (int row = 0; row < Rows; ++row)
                    for (int v = 0; v < Panels * kVectors; ++v)
                        sums[row][v] += reinterpret_cast<const float*>(rows + row * stride)[k + odd] *
                                        reinterpret_cast<Vec>(odd ? w[v] & 0xffff0000u : w[v] << 16);
#endif
        }
    }
};

// The sum of a group's products, of 32 weights of each lane and the group's bytes, eight by eight.
template <int WeightBits>
class Dots {
   public:
    void start(int32_t sum) { sum_ = Int{} + sum; }

    void add(const Bits (&w)[2], Int first, Int second) {
#if defined(NIMBLE_PAIRS)
        // 16 bits hold 16 products of 4 bits and bytes, and four of 6 bits.
        if constexpr (WeightBits == 4) {
            pairs_ += pairs(w[0], first) + pairs(w[1], second);
            return;
        }
        if constexpr (WeightBits == 6) {
            sum_ += fours(pairs(w[0], first) + pairs(w[1], second));
            return;
        }
#endif
#if defined(NIMBLE_SIGNS)
        if constexpr (WeightBits == 8) {
            sum_ += fours(signed_pairs(w[0], first)) + fours(signed_pairs(w[1], second));
            return;
        }
#endif
        sum_ = dot(dot(sum_, w[0], first), w[1], second);
    }

    Int all() const {
#if defined(NIMBLE_PAIRS)
        if constexpr (WeightBits == 4) return sum_ + fours(pairs_);
#endif
        return sum_;
    }

   private:
    Int sum_;
#if defined(NIMBLE_PAIRS)
    Shorts pairs_{};
#endif
};

// Weights of `WeightBits` bits, and inputs of 8, in groups of 32 inputs that have a scale each.
//
// A panel has blocks of 64 inputs: scales [2, 16] and, of 4 bits, offsets [2, 16] in bf16, then four inputs' weights of 16
// outputs and again. A weight is scale * q - offset; of 8 and 6 bits the offset is 128 and 32 scales. Of 4 bits, the lower
// half of a byte is an input's weight and the upper half that of the input four further on. So are the lower 4 of 6 bits
// of a group; behind them are the upper 2, those of inputs four further on above each other.
//
// A row has its bytes, and behind them `Group`s.
template <int WeightBits>
struct Quantised {
    static constexpr Joined kJoined = kJoinedBytes<WeightBits>;
    static constexpr int kTile = kTileBytes, kAlone = kTile;
    static constexpr int kGroup = kTogether, kBlock = 64;
    static constexpr int kMiddle = 1 << (WeightBits - 1);
    static constexpr int kScales = (WeightBits == 4 ? 4 : 2) * kPanel * sizeof(uint16_t);
    static constexpr int kGroupBytes = kGroup * kPanel * WeightBits / 8;
    static constexpr int kBytes = kScales + 2 * kGroupBytes;

    struct Group {
        float scale;
        union {
            float sum;        // of the inputs, for 4 bits
            int32_t correction;  // minus the offset's scales times the sum of the bytes, for 8 and 6
        };
    };

    static int blocks(int in) { return (in + kBlock - 1) / kBlock; }
    static size_t panel_bytes(int in) { return size_t(blocks(in)) * kBytes; }
    static size_t row_bytes(int in) { return size_t(blocks(in)) * (kBlock + 2 * sizeof(Group)); }

    static void take(const float* x, int first, int count, int in, std::byte* row) {
        int8_t* bytes = reinterpret_cast<int8_t*>(row);
        Group* groups = reinterpret_cast<Group*>(row + blocks(in) * kBlock);
        const int end = first + count == in ? blocks(in) * kBlock : first + count;
        for (int start = first; start < end; start += kGroup) {
            const int here = first + count - start;
            if (here >= kGroup) {
                groups[start / kGroup] = round(x + start - first, bytes + start);
                continue;
            }
            float part[kGroup] = {};
            if (here > 0) std::memcpy(part, x + start - first, sizeof(float) * here);
            groups[start / kGroup] = round(part, bytes + start);
        }
    }

    // A group's bytes: the largest is 127 scales.
    static Group round(const float* x, int8_t* bytes) {
        const float largest = largest_of(x, kGroup);
        const Int sums = round_to(x, inverse_of(largest, 127), kGroup, bytes);
        const int32_t sum = joined(sums, [](Int one, Int other) { return one + other; })[0];
        Group group{largest / 127, {}};
        if constexpr (WeightBits == 4) group.sum = group.scale * sum;
        else group.correction = -kMiddle * sum;
        return group;
    }

    static void copy_row(const std::byte* panel, int output, int in, float* to) {
        for (int k = 0; k < in; ++k) {
            const std::byte* block = panel + size_t(k / kBlock) * kBytes;
            const uint16_t* scales = reinterpret_cast<const uint16_t*>(block) + k % kBlock / kGroup * kPanel + output;
            const std::byte* weights = block + kScales + k % kBlock / kGroup * kGroupBytes;
            const int four = k % kGroup / 4;  // of the group
            const auto byte = [&](int index) { return int(weights[(index * kPanel + output) * 4 + k % 4]); };
            const float scale = to_float(scales[0]);
            if constexpr (WeightBits == 8) to[k] = scale * (byte(four) - kMiddle);
            const int low = byte(four / 2) >> four % 2 * 4 & 15;
            if constexpr (WeightBits == 6)
                to[k] = scale * ((low | (byte(kGroup / 8 + four / 4) >> four % 4 * 2 & 3) << 4) - kMiddle);
            if constexpr (WeightBits == 4) to[k] = scale * low - to_float(scales[2 * kPanel]);
        }
    }

    template <int Rows, int Panels, typename Next>
    static void accumulate(const std::byte* rows, size_t stride, const std::byte* panels, size_t apart, int in,
                           const Next& next, Vec (&sums)[Rows][Panels * kVectors]) {
        const size_t behind = size_t(blocks(in)) * kBlock;  // where a row's groups are
        for (int group = 0; group < 2 * blocks(in); ++group) {
            next.template bring<Panels>(group * kGroup);
            const std::byte* block = panels + group / 2 * kBytes;
            const std::byte* weights = block + kScales + group % 2 * kGroupBytes;
            Dots<WeightBits> dots[Rows][Panels * kVectors];
            for (int row = 0; row < Rows; ++row)
                for (auto& each : dots[row]) each.start(start(group_of(rows + row * stride + behind, group)));
#pragma GCC unroll 4
            for (int eight = 0; eight < kGroup / 8; ++eight)
                for (int v = 0; v < Panels * kVectors; ++v) {
                    Bits w[2];
                    unpack(weights + v / kVectors * apart + v % kVectors * sizeof(Bits), eight, w);
                    for (int row = 0; row < Rows; ++row) {
                        const std::byte* x = rows + row * stride + group * kGroup + eight * 8;
                        dots[row][v].add(w, Int{} + four(x), Int{} + four(x + 4));
                    }
                }
            for (int v = 0; v < Panels * kVectors; ++v) {
                const uint16_t* scales = reinterpret_cast<const uint16_t*>(block + v / kVectors * apart) +
                                         group % 2 * kPanel + v % kVectors * kLanes;
                const Vec scale = load(scales);
                for (int row = 0; row < Rows; ++row) {
                    const Group& of = group_of(rows + row * stride + behind, group);
                    sums[row][v] += __builtin_convertvector(dots[row][v].all(), Vec) * (scale * of.scale);
                    if constexpr (WeightBits == 4) sums[row][v] -= load(scales + 2 * kPanel) * of.sum;
                }
            }
        }
    }

   private:
    // A vector's weights of eight inputs of a group, four and four.
    static void unpack(const std::byte* group, int eight, Bits (&w)[2]) {
        const auto at = [&](int four) { return *reinterpret_cast<const Bits*>(group + four * 4 * kPanel); };
        if constexpr (WeightBits == 8) {
            w[0] = at(2 * eight), w[1] = at(2 * eight + 1);
        } else {
            const Bits low = at(eight);
            w[0] = low & 0x0f0f0f0fu, w[1] = low >> 4 & 0x0f0f0f0fu;
        }
        if constexpr (WeightBits == 6) {
            const Bits high = at(kGroup / 8 + eight / 2);
            w[0] |= (eight % 2 ? high : high << 4) & 0x30303030u;
            w[1] |= (eight % 2 ? high >> 2 : high << 2) & 0x30303030u;
        }
    }

    static const Group& group_of(const std::byte* groups, int index) {
        return reinterpret_cast<const Group*>(groups)[index];
    }
    static int32_t start(const Group& group) {
#if defined(NIMBLE_SIGNS)
        if constexpr (WeightBits == 8) return 0;  // there is no offset in the sums
#endif
        return WeightBits == 4 ? 0 : group.correction;
    }
    static int four(const std::byte* x) {
        int bytes;
        std::memcpy(&bytes, x, 4);
        return bytes;
    }
};

// --- A matrix of one format. ---

template <typename Format>
class Packed final : public Matrix {
   public:
    Packed(const void* weights, const float* bias, int out, int in)
        : Matrix(out, in), weights_(static_cast<const std::byte*>(weights)), bias_(bias) {}

    size_t stride() const override { return (Format::row_bytes(in_) + 63) / 64 * 64; }

    void take(const float* x, int first, int count, std::byte* row) const override {
        Format::take(x, first, count, in_, row);
    }

    void copy_row(int row, float* to) const override { Format::copy_row(panel(row / kPanel), row % kPanel, in_, to); }

    void multiply(Part part, const std::byte* rows, int count, const Sink& sink) const override {
        const int panels = (out_ + kPanel - 1) / kPanel, first = part.first(panels), all = part.last(panels) - first;
        // Joined panels are far from each other, so that each of their streams goes on where it was.
        const int joins = Format::kJoined.by(count) ? all / Format::kJoined.panels : 0;
        for (int join = 0; join < joins; ++join)
            multiply_panels<Format::kJoined.panels>(rows, count, first + join, joins, sink);
        for (int panel = first + joins * Format::kJoined.panels; panel < first + all; ++panel)
            multiply_panels<1>(rows, count, panel, 0, sink);
    }

    void multiply_halves(Part part, const std::byte* rows, int count, const Sink& sink) const override {
        constexpr int kPanels = kTogether / kPanel;
        const int half = out_ / 2 / kPanel, groups = half / kPanels;
        for (int index = part.first(groups) * kPanels; index < part.last(groups) * kPanels; ++index)
            if constexpr (Format::kJoined.panels > 1 && Format::kJoined.by(kAny)) {
                multiply_panels<2>(rows, count, index, half, sink);
            } else {
                multiply_panels<1>(rows, count, index, 0, sink);
                multiply_panels<1>(rows, count, index + half, 0, sink);
            }
    }

   private:
    // Most rows that so many panels multiply together.
    template <int Panels>
    static constexpr int kRows = Panels > 1 && !Format::kJoined.by(kAny) ? Format::kJoined.few : Format::kTile;

    const std::byte* panel(int index) const { return weights_ + index * Format::panel_bytes(in_); }

    // Where there are many rows, each tile brings its part of the next panels near.
    template <int Panels>
    void multiply_panels(const std::byte* rows, int count, int index, int apart, const Sink& sink) const {
        const int fewest = count > Format::kAlone ? 2 : 0, steps = (in_ + kAhead - 1) / kAhead;
        const int tiles = std::max((count + kRows<Panels> - 1) / kRows<Panels>, fewest);
        const size_t bytes = Format::panel_bytes(in_), each = bytes / (std::max(tiles, 1) * steps);
        Ahead ahead{panel(index + 1), apart * bytes, (each + 63) / 64 * 64};
        for (int tile = 0; tile < tiles; ++tile, ahead.from += ahead.each * steps) {
            const int first = count * tile / tiles, here = count * (tile + 1) / tiles - first;
            if (tiles > 1 && Panels * ahead.each <= kMostAhead)
                multiply_tile<Panels, kRows<Panels>>(here, rows, first, index, apart, ahead, sink);
            else multiply_tile<Panels, kRows<Panels>>(here, rows, first, index, apart, Nothing(), sink);
        }
    }

    // `count` rows, of which there may be `Rows` at most.
    template <int Panels, int Rows, typename Next>
    void multiply_tile(int count, const std::byte* rows, int first, int panel, int apart, const Next& next,
                       const Sink& sink) const {
        if constexpr (Rows > 1)
            if (count < Rows) return multiply_tile<Panels, Rows - 1>(count, rows, first, panel, apart, next, sink);
        if constexpr (Rows > 0) multiply_rows<Rows, Panels>(rows, first, panel, apart, next, sink);
    }

    template <int Rows, int Panels, typename Next>
    void multiply_rows(const std::byte* rows, int first, int index, int apart, const Next& next, const Sink& sink) const {
        Vec sums[Rows][Panels * kVectors];
        alignas(64) float values[Panels][Rows][kPanel] = {};
        const auto start = [&](int panel) { return (index + panel * apart) * kPanel; };
        const auto outputs = [&](int panel) { return std::min(kPanel, out_ - start(panel)); };
        if (bias_)
            for (int panel = 0; panel < Panels; ++panel)
                std::memcpy(values[panel][0], bias_ + start(panel), sizeof(float) * outputs(panel));
        for (auto& row : sums)
            for (int v = 0; v < Panels * kVectors; ++v) row[v] = load(values[v / kVectors][0] + v % kVectors * kLanes);
        Format::template accumulate<Rows, Panels>(rows + first * stride(), stride(), panel(index),
                                                  apart * Format::panel_bytes(in_), in_, next, sums);
        for (int row = 0; row < Rows; ++row)
            for (int v = 0; v < Panels * kVectors; ++v)
                store(values[v / kVectors][row] + v % kVectors * kLanes, sums[row][v]);
        for (int panel = 0; panel < Panels; ++panel)
            sink({first, Rows, start(panel), outputs(panel), values[panel][0]});
    }

    const std::byte* weights_;
    const float* bias_;
};

// A matrix in the format of that name (build_engine/packing.py), or null where there is none.
std::unique_ptr<Matrix> make_matrix(std::string_view format, const void* weights, const float* bias, int out, int in) {
    if (format == "fp32") return std::make_unique<Packed<Fp32>>(weights, bias, out, in);
    if (format == "bf16") return std::make_unique<Packed<Bf16>>(weights, bias, out, in);
    if (format == "int8") return std::make_unique<Packed<Quantised<8>>>(weights, bias, out, in);
    if (format == "int6") return std::make_unique<Packed<Quantised<6>>>(weights, bias, out, in);
    if (format == "int4") return std::make_unique<Packed<Quantised<4>>>(weights, bias, out, in);
    return nullptr;
}

}  // namespace
