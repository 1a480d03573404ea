// One forward pass of a Qwen2 model over the tokens of many sequences, for CPUs.
//
// The computation of qwen2.py without an operator's overhead a hundred times a step. Compiled for several instruction
// sets by compiled.py, called by native.py.
//
// Every row is computed by the same operations in the same order however many rows stand beside it: what lies side by
// side in a vector are outputs, not terms of a sum, and attention adds up exactly the entries that a row sees, oldest
// first. A row's result depends on its own tokens alone, so that lookahead decoding gives plain decoding's tokens bit for
// bit, in bf16 as in fp32.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kVectors = 4;  // of 32 registers: 6 rows x 4 vectors of sums, 4 of weights, 1 of input
#elif defined(__AVX2__)
constexpr int kLanes = 8, kVectors = 2;  // of 16: 12, 2 and 1
#else
constexpr int kLanes = 4, kVectors = 4;
#endif
constexpr int kPanel = kLanes * kVectors;  // outputs that are computed together
constexpr int kTile = 6;                   // rows that share the loads of a panel's weights
constexpr int kQueries = 4;                // rows and heads that share the loads of keys and values
constexpr int kMaxDim = 256;               // of an attention head
constexpr int kSpins = 4096;               // some 20 us that a thread waits awake: it is woken every few us in a step

typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int32_t Int __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint16_t Half __attribute__((vector_size(2 * kLanes), aligned(2)));

// --- Numbers. bf16 is a uint16_t, the upper half of a float. ---

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline Vec load(const uint16_t* from) {
    return reinterpret_cast<Vec>(__builtin_convertvector(*reinterpret_cast<const Half*>(from), Bits) << 16);
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

// --- Threads. ---

// One of several equal parts of the work.
struct Part {
    int index, count;

    int first(int items) const { return int64_t(items) * index / count; }
    int last(int items) const { return int64_t(items) * (index + 1) / count; }
};

// Threads that do a step together. They wait awake only for a moment: the cores may be wanted by others.
class Team {
   public:
    explicit Team(int size) : size_(size) {
        for (int index = 1; index < size; ++index)
            threads_.emplace_back([this, index] {
                for (uint32_t turn = 0;; ++turn) {
                    wait_while(started_, turn);
                    if (!work_) return;
                    (*work_)({index, size_});
                    barrier();
                }
            });
    }
    ~Team() {
        work_ = nullptr;
        start();
        for (auto& thread : threads_) thread.join();
    }
    int size() const { return size_; }

    // Runs `work` on all threads, this one included, and returns when all are done.
    void run(const std::function<void(Part)>& work) {
        work_ = &work;
        start();
        work({0, size_});
        barrier();
    }

    // Waits until all threads are here.
    void barrier() {
        if (size_ == 1) return;
        const uint32_t turn = passed_.load();
        if (arrived_.fetch_add(1) + 1 < size_) return wait_while(passed_, turn);
        arrived_ = 0;
        ++passed_;
        passed_.notify_all();
    }

   private:
    void start() {
        ++started_;
        started_.notify_all();
    }

    static void wait_while(const std::atomic<uint32_t>& turn, uint32_t old) {
        for (int i = 0; i < kSpins && turn.load() == old; ++i) {
#if defined(__x86_64__)
            _mm_pause();
#endif
        }
        turn.wait(old);
    }

    const int size_;
    const std::function<void(Part)>* work_ = nullptr;
    std::atomic<uint32_t> started_{0}, passed_{0};
    std::atomic<int> arrived_{0};
    std::vector<std::thread> threads_;
};

// --- Matrices. ---

// What a matrix of `Weight` multiplies: floats, or bf16 where there are instructions for pairs of them.
template <typename Weight>
struct Input {
    using Type = float;
};
#if defined(__AVX512BF16__)
template <>
struct Input<uint16_t> {
    using Type = uint16_t;
};
#endif

// Weights [out, in] in panels of outputs. A panel has, input by input (for bf16 pair by pair), its outputs' weights.
template <typename Weight>
class Matrix {
   public:
    using X = typename Input<Weight>::Type;

    Matrix(Team& team, const Weight* weight, const Weight* bias, int out, int in)
        : out_(out), in_(in), padded_((in + kGroup - 1) / kGroup * kGroup), bias_(bias) {
        packed_.reset(static_cast<Weight*>(std::aligned_alloc(64, sizeof(Weight) * panels() * panel_size())));
        team.run([&](Part part) {
            for (int panel = part.first(panels()); panel < part.last(panels()); ++panel)
                for (int k = 0; k < padded_; ++k)
                    for (int column = 0; column < kPanel; ++column) {
                        const int row = panel * kPanel + column;
                        packed_.get()[place(row, k)] = row < out && k < in ? weight[size_t(row) * in + k] : Weight{};
                    }
        });
    }

    int out() const { return out_; }

    // The weights of one output, as floats.
    void copy_row(int row, float* to) const {
        for (int k = 0; k < in_; ++k) to[k] = to_float(packed_.get()[place(row, k)]);
    }

    // Calls sink(row, first output, outputs, values) for this part's outputs of x @ weight.T + bias.
    // x is [rows, stride], zero from `in` to the next even number.
    template <typename Sink>
    void multiply(Part part, const X* x, int rows, int stride, Sink sink) const {
        const int tiles = (rows + kTile - 1) / kTile;
        for (int panel = part.first(panels()); panel < part.last(panels()); ++panel)
            for (int tile = 0; tile < tiles; ++tile) {
                const int first = rows * tile / tiles, last = rows * (tile + 1) / tiles;
                const X* from = x + size_t(first) * stride;
                switch (last - first) {
                    case 1: multiply_tile<1>(from, stride, panel, first, sink); break;
                    case 2: multiply_tile<2>(from, stride, panel, first, sink); break;
                    case 3: multiply_tile<3>(from, stride, panel, first, sink); break;
                    case 4: multiply_tile<4>(from, stride, panel, first, sink); break;
                    case 5: multiply_tile<5>(from, stride, panel, first, sink); break;
                    default: multiply_tile<kTile>(from, stride, panel, first, sink);
                }
            }
    }

   private:
    static constexpr int kGroup = sizeof(Weight) == 2 ? 2 : 1;

    int panels() const { return (out_ + kPanel - 1) / kPanel; }
    size_t panel_size() const { return size_t(padded_) * kPanel; }
    size_t place(int row, int k) const {
        return row / kPanel * panel_size() + (size_t(k / kGroup) * kPanel + row % kPanel) * kGroup + k % kGroup;
    }

    template <int Rows, typename Sink>
    void multiply_tile(const X* x, int stride, int panel, int first, Sink& sink) const {
        Vec sums[Rows][kVectors];
        const int start = panel * kPanel, outputs = std::min(kPanel, out_ - start);
        alignas(64) float values[kPanel] = {};
        if (bias_)
            for (int i = 0; i < outputs; ++i) values[i] = to_float(bias_[start + i]);
        for (auto& row : sums)
            for (int v = 0; v < kVectors; ++v) row[v] = load(values + v * kLanes);
        accumulate<Rows>(x, stride, packed_.get() + panel * panel_size(), sums);
        for (int row = 0; row < Rows; ++row) {
            for (int v = 0; v < kVectors; ++v) store(values + v * kLanes, sums[row][v]);
            sink(first + row, start, outputs, values);
        }
    }

    template <int Rows>
    void accumulate(const float* x, int stride, const float* weights, Vec (&sums)[Rows][kVectors]) const {
        for (int k = 0; k < padded_; ++k, weights += kPanel) {
            Vec w[kVectors];
            for (int v = 0; v < kVectors; ++v) w[v] = load(weights + v * kLanes);
            for (int row = 0; row < Rows; ++row)
                for (int v = 0; v < kVectors; ++v) sums[row][v] += x[size_t(row) * stride + k] * w[v];
        }
    }

    template <int Rows>
    void accumulate(const float* x, int stride, const uint16_t* weights, Vec (&sums)[Rows][kVectors]) const {
        for (int k = 0; k < padded_; k += 2, weights += 2 * kPanel)
            for (int odd = 0; odd < 2; ++odd) {
                Vec w[kVectors];
                for (int v = 0; v < kVectors; ++v) {
                    const Bits pair = *reinterpret_cast<const Bits*>(weights + 2 * v * kLanes);
                    w[v] = reinterpret_cast<Vec>(odd ? pair & 0xffff0000u : pair << 16);
                }
                for (int row = 0; row < Rows; ++row)
                    for (int v = 0; v < kVectors; ++v) sums[row][v] += x[size_t(row) * stride + k + odd] * w[v];
            }
    }

#if defined(__AVX512BF16__)
    template <int Rows>
    void accumulate(const uint16_t* x, int stride, const uint16_t* weights, Vec (&sums)[Rows][kVectors]) const {
        for (int k = 0; k < padded_; k += 2, weights += 2 * kPanel) {
            __m512bh w[kVectors];
            for (int v = 0; v < kVectors; ++v) w[v] = (__m512bh)_mm512_loadu_si512(weights + 2 * v * kLanes);
            for (int row = 0; row < Rows; ++row) {
                int pair;
                std::memcpy(&pair, x + size_t(row) * stride + k, 4);
                for (int v = 0; v < kVectors; ++v)
                    sums[row][v] = (Vec)_mm512_dpbf16_ps((__m512)sums[row][v], (__m512bh)_mm512_set1_epi32(pair), w[v]);
            }
        }
    }
#endif

    struct Free {
        void operator()(Weight* memory) const { std::free(memory); }
    };

    int out_, in_, padded_;
    const Weight* bias_;
    std::unique_ptr<Weight, Free> packed_;
};

// --- The model. ---

struct Shape {
    int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, tied;
    double rms_norm_eps;
};

// Keys and values of all layers, [layers, slots, kv_heads, capacity, head_dim], and the rotary tables [positions,
// head_dim / 2].
struct Memory {
    void *keys, *values;
    int64_t slots, capacity;
    const float *cos, *sin;
};

// One sequence's rows of a step, and where its keys and values are.
struct Segment {
    int64_t slot, cached, first_row, rows;
    int64_t visible;  // where in the bit sets its rows' begin, (rows + 63) / 64 words each; -1: rows see those before
};

struct Step {
    int64_t rows;
    const int64_t *tokens, *positions;  // [rows]
    int64_t segments;
    const Segment* segment;
    const uint64_t* visible;
    int64_t wanted;
    const int64_t* wanted_rows;
    int64_t* choices;  // [wanted]: each row's most likely token, the smallest of equals
    float* logits;     // [wanted, vocab_size], or null
};

class Model {
   public:
    virtual ~Model() = default;
    virtual void run(const Step& step) = 0;
};

template <typename Weight>
class Qwen2 : public Model {
    using X = typename Input<Weight>::Type;

   public:
    // `weights`: embedding, norm, head (unused where tied), then per layer attention_norm, qkv_weight, qkv_bias, output,
    // mlp_norm, gate_up, down. Matrices are copied; norms and biases stay where they are.
    Qwen2(const Shape& shape, const void* const* weights, const Memory& memory, int threads)
        : shape_(shape),
          memory_(memory),
          team_(threads),
          embedding_(team_, at(weights, 0), nullptr, shape.vocab_size, shape.hidden_size),
          norm_(at(weights, 1)),
          scores_(threads) {
        const int hidden = shape.hidden_size, inter = shape.intermediate_size, q = shape.heads * shape.head_dim;
        if (!shape.tied)
            head_ = std::make_unique<Matrix<Weight>>(team_, at(weights, 2), nullptr, shape.vocab_size, hidden);
        for (int layer = 0; layer < shape.layers; ++layer) {
            const void* const* w = weights + 3 + 7 * layer;
            layers_.push_back({at(w, 0), Matrix<Weight>(team_, at(w, 1), at(w, 2), qkv_width(), hidden),
                               Matrix<Weight>(team_, at(w, 3), nullptr, hidden, q), at(w, 4),
                               Matrix<Weight>(team_, at(w, 5), nullptr, 2 * inter, hidden),
                               Matrix<Weight>(team_, at(w, 6), nullptr, hidden, inter)});
        }
    }

    void run(const Step& step) override {
        make_room(step);
        team_.run([&](Part part) { forward(part, step); });
        for (int row = 0; row < step.wanted; ++row) {
            Best best = best_[row];
            for (int part = 1; part < team_.size(); ++part) {
                const Best other = best_[part * step.wanted + row];  // of larger tokens than all before
                if (other.logit > best.logit) best = other;
            }
            step.choices[row] = best.token;
        }
    }

   private:
    struct Layer {
        const Weight* attention_norm;
        Matrix<Weight> qkv, output;
        const Weight* mlp_norm;
        Matrix<Weight> gate_up, down;
    };

    struct Best {
        float logit;
        int token;
    };

    static const Weight* at(const void* const* weights, int index) { return static_cast<const Weight*>(weights[index]); }

    int qkv_width() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim; }

    void make_room(const Step& step) {
        const int64_t hidden = shape_.hidden_size, inter = shape_.intermediate_size;
        hidden_.resize(step.rows * hidden);
        qkv_.resize(step.rows * qkv_width());
        gate_up_.resize(step.rows * 2 * inter);
        stride_ = (std::max({hidden, shape_.heads * shape_.head_dim, inter}) + 1) / 2 * 2;
        input_.resize(std::max(step.rows, step.wanted) * stride_);
        best_.assign(team_.size() * step.wanted, {-std::numeric_limits<float>::infinity(), 0});
        int64_t longest = 0;
        for (int s = 0; s < step.segments; ++s)
            longest = std::max(longest, step.segment[s].cached + step.segment[s].rows);
        longest = (longest / kLanes + 2) * kLanes;
        for (auto& scores : scores_) scores.resize(kQueries * longest);
    }

    void forward(Part part, const Step& step) {
        const int rows = step.rows, hidden = shape_.hidden_size, inter = shape_.intermediate_size;
        const auto to_qkv = writer(qkv_.data(), qkv_width()), to_gate_up = writer(gate_up_.data(), 2 * inter);
        const auto to_hidden = [&](int row, int first, int outputs, const float* values) {
            for (int i = 0; i < outputs; ++i) hidden_[size_t(row) * hidden + first + i] += values[i];
        };
        for (int row = part.first(rows); row < part.last(rows); ++row)
            embedding_.copy_row(step.tokens[row], &hidden_[size_t(row) * hidden]);
        for (size_t index = 0; index < layers_.size(); ++index) {
            const Layer& layer = layers_[index];
            normalise(part, rows, nullptr, layer.attention_norm);
            team_.barrier();
            layer.qkv.multiply(part, input_.data(), rows, stride_, to_qkv);
            team_.barrier();
            rotate_and_keep(part, step, index);
            team_.barrier();
            for (int s = 0; s < step.segments; ++s) attend(part, step, step.segment[s], index);
            team_.barrier();
            layer.output.multiply(part, input_.data(), rows, stride_, to_hidden);
            team_.barrier();
            normalise(part, rows, nullptr, layer.mlp_norm);
            team_.barrier();
            layer.gate_up.multiply(part, input_.data(), rows, stride_, to_gate_up);
            team_.barrier();
            activate(part, rows);
            team_.barrier();
            layer.down.multiply(part, input_.data(), rows, stride_, to_hidden);
            team_.barrier();
        }
        normalise(part, step.wanted, step.wanted_rows, norm_);
        team_.barrier();
        choose(part, step);
    }

    static auto writer(float* to, int width) {
        return [=](int row, int first, int outputs, const float* values) {
            std::memcpy(to + size_t(row) * width + first, values, sizeof(float) * outputs);
        };
    }

    // input = hidden / rms(hidden) * weight, of all rows or of the chosen ones.
    void normalise(Part part, int rows, const int64_t* chosen, const Weight* weight) {
        const int size = shape_.hidden_size;
        for (int row = part.first(rows); row < part.last(rows); ++row) {
            const float* x = &hidden_[size_t(chosen ? chosen[row] : row) * size];
            Vec squares{};
            int i = 0;
            for (; i + kLanes <= size; i += kLanes) squares += load(x + i) * load(x + i);
            float total = sum(squares);
            for (; i < size; ++i) total += x[i] * x[i];
            const float scale = 1 / std::sqrt(total / size + float(shape_.rms_norm_eps));
            X* to = &input_[size_t(row) * stride_];
            for (i = 0; i < size; ++i) from_float(x[i] * scale * to_float(weight[i]), to + i);
            if (size % 2) from_float(0, to + size);
        }
    }

    // Where the entries of one sequence and head begin.
    Weight* entries(void* cache, int layer, int64_t slot, int head) const {
        return static_cast<Weight*>(cache) +
               ((layer * memory_.slots + slot) * shape_.kv_heads + head) * memory_.capacity * shape_.head_dim;
    }

    // Rotary embedding of queries and keys, in halves as GPT-NeoX has it; keys and values go into the cache.
    void rotate_and_keep(Part part, const Step& step, int layer) {
        const int dim = shape_.head_dim, half = dim / 2, heads = shape_.heads, kv_heads = shape_.kv_heads;
        for (int s = 0; s < step.segments; ++s) {
            const Segment& segment = step.segment[s];
            for (int i = part.first(segment.rows); i < part.last(segment.rows); ++i) {
                const int64_t row = segment.first_row + i;
                const float *cos = memory_.cos + step.positions[row] * half;
                const float *sin = memory_.sin + step.positions[row] * half;
                float* qkv = &qkv_[row * qkv_width()];
                for (float* x = qkv; x < qkv + (heads + kv_heads) * dim; x += dim)
                    for (int k = 0; k < half; ++k) {
                        const float first = x[k], second = x[k + half];
                        x[k] = first * cos[k] - second * sin[k];
                        x[k + half] = second * cos[k] + first * sin[k];
                    }
                for (int head = 0; head < kv_heads; ++head) {
                    const float *key = qkv + (heads + head) * dim, *value = key + kv_heads * dim;
                    const int64_t place = (segment.cached + i) * dim;
                    Weight* keys = entries(memory_.keys, layer, segment.slot, head) + place;
                    Weight* values = entries(memory_.values, layer, segment.slot, head) + place;
                    for (int k = 0; k < dim; ++k) from_float(key[k], keys + k);
                    for (int k = 0; k < dim; ++k) from_float(value[k], values + k);
                }
            }
        }
    }

    // input = softmax(q k / sqrt(d)) v for every row and head of a segment.
    void attend(Part part, const Step& step, const Segment& segment, int layer) {
        const int queries = segment.rows * (shape_.heads / shape_.kv_heads);
        const int blocks = (queries + kQueries - 1) / kQueries, all = blocks * shape_.kv_heads;
        for (int item = part.first(all); item < part.last(all); ++item) {
            const int first = item % blocks * kQueries;
            const int count = std::min(queries - first, kQueries);
            if (count <= kQueries / 2) attend_block<kQueries / 2>(part, step, segment, layer, item / blocks, first, count);
            else attend_block<kQueries>(part, step, segment, layer, item / blocks, first, count);
        }
    }

    // The same for `count` of the queries that share a head of keys and values; they are counted row by row. `Queries`,
    // `count` or more, are computed together: the same numbers whatever it is.
    template <int Queries>
    void attend_block(Part part, const Step& step, const Segment& segment, int layer, int kv_head, int first, int count) {
        const int dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
        const Weight* keys = entries(memory_.keys, layer, segment.slot, kv_head);
        const Weight* values = entries(memory_.values, layer, segment.slot, kv_head);
        std::vector<float>& room = scores_[part.index];
        const float* query[Queries];
        float* scores[Queries];
        for (int q = 0; q < Queries; ++q) {
            const int i = first + std::min(q, count - 1);
            query[q] = &qkv_[(segment.first_row + i / group) * qkv_width() + (kv_head * group + i % group) * dim];
            scores[q] = room.data() + q * (room.size() / Queries);
        }
        // First the entries that all rows of the block see, together; then those that each row sees besides.
        const int common = segment.cached + (segment.visible < 0 ? first / group + 1 : 0);
        score<Queries>(query, keys, common, scores);
        alignas(64) float mixed[Queries][kMaxDim];
        float total[Queries];
        for (int q = 0; q < count; ++q) {
            int seen = common;
            each_besides(step, segment, (first + q) / group, common, [&](int64_t position) {
                Vec products{};
                for (int k = 0; k < dim; k += kLanes) products += load(query[q] + k) * load(keys + position * dim + k);
                scores[q][seen++] = sum(products);
            });
            total[q] = soften(scores[q], seen, 1 / std::sqrt(float(dim)));
        }
        mix(scores, values, common, mixed);
        for (int q = 0; q < count; ++q) {
            int seen = common;
            each_besides(step, segment, (first + q) / group, common, [&](int64_t position) {
                const float weight = scores[q][seen++];
                for (int k = 0; k < dim; k += kLanes)
                    store(mixed[q] + k, load(mixed[q] + k) + weight * load(values + position * dim + k));
            });
            const int head = kv_head * group + (first + q) % group;
            X* to = &input_[(segment.first_row + (first + q) / group) * stride_ + head * dim];
            for (int k = 0; k < dim; ++k) from_float(mixed[q][k] / total[q], to + k);
        }
    }

    // Calls visit(position) for the entries from `common` on that a row of the segment sees, oldest first.
    template <typename Visit>
    static void each_besides(const Step& step, const Segment& segment, int row, int common, Visit visit) {
        if (segment.visible < 0) {
            for (int64_t position = common; position <= segment.cached + row; ++position) visit(position);
            return;
        }
        const uint64_t* words = step.visible + segment.visible + row * ((segment.rows + 63) / 64);
        for (int word = 0; word * 64 <= row; ++word)
            for (uint64_t bits = words[word]; bits; bits &= bits - 1)
                visit(segment.cached + word * 64 + __builtin_ctzll(bits));
    }

    // scores[q][i] = query[q] . keys[i] for the first `count` keys.
    template <int Queries>
    void score(const float* const* query, const Weight* keys, int count, float* const* scores) const {
        constexpr int kKeys = kLanes / Queries;
        const int dim = shape_.head_dim;
        for (int i = 0; i < count; i += kKeys) {
            Vec products[Queries * kKeys] = {};
            const Weight* key[kKeys];
            for (int j = 0; j < kKeys; ++j) key[j] = keys + size_t(std::min(i + j, count - 1)) * dim;
            for (int k = 0; k < dim; k += kLanes)
                for (int j = 0; j < kKeys; ++j) {
                    const Vec part = load(key[j] + k);
                    for (int q = 0; q < Queries; ++q) products[q * kKeys + j] += load(query[q] + k) * part;
                }
            alignas(64) float results[kLanes];
            store(results, sums(products));
            for (int q = 0; q < Queries; ++q) std::memcpy(scores[q] + i, results + q * kKeys, sizeof(float) * kKeys);
        }
    }

    // e^(scale * (score - the largest)) in place; returns their sum. There is room for a vector behind the last.
    static float soften(float* scores, int count, float scale) {
        const float largest = *std::max_element(scores, scores + count);
        std::fill(scores + count, scores + (count + kLanes - 1) / kLanes * kLanes,
                  -std::numeric_limits<float>::infinity());
        Vec total{};
        for (int i = 0; i < count; i += kLanes) {
            const Vec raised = exp((load(scores + i) - largest) * scale);
            store(scores + i, raised);
            total += raised;
        }
        return sum(total);
    }

    // mixed[q] = the first `count` values, weighted by scores[q].
    template <int Queries>
    void mix(float* const* scores, const Weight* values, int count, float (&mixed)[Queries][kMaxDim]) const {
        const int dim = shape_.head_dim;
        for (int start = 0; start < dim; start += kPanel) {
            Vec sums[Queries][kVectors] = {};
            for (int i = 0; i < count; ++i)
                for (int v = 0; v < kVectors; ++v) {
                    const Vec value = load(values + size_t(i) * dim + start + v * kLanes);
                    for (int q = 0; q < Queries; ++q) sums[q][v] += scores[q][i] * value;
                }
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < kVectors; ++v) store(mixed[q] + start + v * kLanes, sums[q][v]);
        }
    }

    // input = silu(gate) * up
    void activate(Part part, int rows) {
        const int inter = shape_.intermediate_size;
        for (int row = part.first(rows); row < part.last(rows); ++row) {
            float *gate = &gate_up_[size_t(row) * 2 * inter], *up = gate + inter;
            int i = 0;
            for (; i + kLanes <= inter; i += kLanes) {
                const Vec x = load(gate + i);
                store(gate + i, x / (exp(-x) + 1.0f) * load(up + i));
            }
            for (; i < inter; ++i) gate[i] = gate[i] / (std::exp(-gate[i]) + 1) * up[i];
            X* to = &input_[size_t(row) * stride_];
            for (i = 0; i < inter; ++i) from_float(gate[i], to + i);
            if (inter % 2) from_float(0, to + inter);
        }
    }

    // The best of this part's tokens for every wanted row, and the logits where somebody wants them.
    void choose(Part part, const Step& step) {
        Best* best = &best_[part.index * step.wanted];
        const Matrix<Weight>& head = shape_.tied ? embedding_ : *head_;
        head.multiply(part, input_.data(), step.wanted, stride_, [&](int row, int first, int outputs, const float* values) {
            for (int i = 0; i < outputs; ++i)
                if (values[i] > best[row].logit) best[row] = {values[i], first + i};
            if (step.logits)
                std::memcpy(step.logits + size_t(row) * head.out() + first, values, sizeof(float) * outputs);
        });
    }

    const Shape shape_;
    const Memory memory_;
    Team team_;
    Matrix<Weight> embedding_;
    std::unique_ptr<Matrix<Weight>> head_;
    const Weight* norm_;
    std::vector<Layer> layers_;
    // Of the step at hand, [rows, ...]: the residual stream, what comes out of the first matrix of each block's halves,
    // and the next matrix's input.
    std::vector<float> hidden_, qkv_, gate_up_;
    std::vector<X> input_;
    int stride_ = 0;
    std::vector<std::vector<float>> scores_;  // a thread's, [kQueries, entries]
    std::vector<Best> best_;                  // [threads, wanted]
};

}  // namespace

// --- What Python calls. The structures are those of native.py. ---

extern "C" {

Model* nimble_open(const Shape* shape, int bf16, const void* const* weights, const Memory* memory, int threads) {
    if (bf16) return new Qwen2<uint16_t>(*shape, weights, *memory, threads);
    return new Qwen2<float>(*shape, weights, *memory, threads);
}

void nimble_run(Model* model, const Step* step) { model->run(*step); }

void nimble_close(Model* model) { delete model; }
}
