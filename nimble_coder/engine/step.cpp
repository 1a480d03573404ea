// One forward pass of a Qwen2 model over the tokens of many sequences, for CPUs.
//
// The computation of qwen2.py without an operator's overhead a hundred times a step. Compiled for several instruction
// sets by compiled.py, called by native.py. The headers beside it are its parts.
//
// Every row is computed by the same operations in the same order however many rows stand beside it: what lies side by
// side in a vector are outputs, not terms of a sum, and attention adds up exactly the entries that a row sees, oldest
// first. A row's result depends on its own tokens alone, so that lookahead decoding gives plain decoding's tokens bit for
// bit, in every format of weights.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "bytes.h"
#include "matrix.h"
#include "pairs.h"
#include "team.h"
#include "vectors.h"

namespace {

constexpr int kQueries = 4;   // rows and heads that share the loads of keys and values
constexpr int kBlock = 16;    // of a long prompt, that share the entries which the processor keeps near
constexpr int kNear = 256;    // such entries
constexpr int kFew = 6;       // rows that wait for the memory: each matrix is read from its first byte to its last
#if defined(__AVX512F__) || !defined(__AVX2__)
constexpr int kMixed = 4;  // vectors of values that are added up together
#else
constexpr int kMixed = 2;
#endif

// --- The model. ---

struct Shape {
    int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, tied;
    double rms_norm_eps;
};

// Keys and values of all layers, [layers, slots, kv_heads, capacity, head_dim], and the rotary tables [positions,
// head_dim / 2]. Of entries in 8 bits also the scales, [layers, slots, kv_heads, capacity], else null; and their keys have
// kFine numbers more.
struct Memory {
    void *keys, *values;
    float *key_scales, *value_scales;
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
    int64_t layers;  // the first so many; fewer than all only to time them
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

// What the weights are called in the engine's file, and where they lie: matrices in the format that is named, norms and
// biases as floats.
struct Tensor {
    const char *name, *format;
    const void* data;
};

// `Entry`: an element of the cache's keys and values, float, bf16 or a byte.
template <typename Entry>
class Qwen2 : public Model {
    using Tensors = std::unordered_map<std::string, Tensor>;

   public:
    Qwen2(const Shape& shape, const Tensors& tensors, const Memory& memory, int threads)
        : shape_(shape), memory_(memory), team_(threads), rooms_(threads, Room(shape.head_dim)) {
        const int hidden = shape.hidden_size, inter = shape.intermediate_size, q = shape.heads * shape.head_dim;
        embedding_ = matrix(tensors, "embedding", shape.vocab_size, hidden);
        if (!shape.tied) head_ = matrix(tensors, "head", shape.vocab_size, hidden);
        norm_ = floats(tensors, "norm");
        for (int layer = 0; layer < shape.layers; ++layer) {
            const std::string in = "layers." + std::to_string(layer) + ".";
            layers_.push_back({floats(tensors, in + "attention_norm"),
                               matrix(tensors, in + "qkv_weight", qkv_width(), hidden, floats(tensors, in + "qkv_bias")),
                               matrix(tensors, in + "output", hidden, q), floats(tensors, in + "mlp_norm"),
                               matrix(tensors, in + "gate_up", 2 * inter, hidden),
                               matrix(tensors, in + "down", hidden, inter), {}, {}});
            if constexpr (kBytes) measure_keys(layers_.back(), floats(tensors, in + "qkv_bias"));
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
    static constexpr bool kBytes = std::is_same_v<Entry, int8_t>;

    struct Layer {
        const float* attention_norm;
        std::unique_ptr<Matrix> qkv, output;
        const float* mlp_norm;
        std::unique_ptr<Matrix> gate_up, down;
        // Of entries in 8 bits: how large keys are, [kv_heads, head_dim / 2], and which dimensions have two bytes,
        // [kv_heads, kFine].
        std::vector<float> sizes;
        std::vector<int> fine;
    };

    struct Best {
        float logit;
        int token;
    };

    static const float* floats(const Tensors& tensors, const std::string& name) {
        return static_cast<const float*>(tensors.at(name).data);
    }

    static std::unique_ptr<Matrix> matrix(const Tensors& tensors, const std::string& name, int out, int in,
                                          const float* bias = nullptr) {
        const Tensor& tensor = tensors.at(name);
        return make_matrix(tensor.format, tensor.data, bias, out, in);
    }

    const Matrix& head() const { return shape_.tied ? *embedding_ : *head_; }

    int qkv_width() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim; }

    // A layer's `sizes` and `fine`. Some dimensions of Qwen2.5's keys have biases a hundred times as large as the rest of
    // the key, which 8 bits of the largest would lose. So keys are divided by what is to be expected of each dimension, and
    // queries multiplied by it: their product stays. Rotation mixes dimension k with k + head_dim / 2, which therefore
    // share one. Where the products are largest, 8 bits of a key are too few as well.
    void measure_keys(Layer& layer, const float* bias) const {
        const int dim = shape_.head_dim, half = dim / 2, group = shape_.heads / shape_.kv_heads;
        for (int head = 0; head < shape_.kv_heads; ++head) {
            const std::vector<float> keys = squares(layer, bias, shape_.heads + head, 1);
            std::vector<float> products = squares(layer, bias, head * group, group);
            std::vector<int> order(half);
            for (int k = 0; k < half; ++k) {
                layer.sizes.push_back(keys[k] > 0 ? std::sqrt(keys[k]) : 1);
                products[k] *= keys[k], order[k] = k;
            }
            std::stable_sort(order.begin(), order.end(), [&](int k, int other) { return products[k] > products[other]; });
            for (int i = 0; i < kFine; ++i) layer.fine.push_back(order[i / 2] + i % 2 * half);
        }
    }

    // What is to be expected of the squares of some heads in each pair of dimensions that rotation mixes, [head_dim / 2]:
    // a normalised input's numbers are about as large as the norm's weights.
    std::vector<float> squares(const Layer& layer, const float* bias, int first, int heads) const {
        const int dim = shape_.head_dim, hidden = shape_.hidden_size;
        std::vector<float> weights(hidden), sums(dim / 2);
        for (int output = first * dim; output < (first + heads) * dim; ++output) {
            layer.qkv->copy_row(output, weights.data());
            float square = bias[output] * bias[output];
            for (int k = 0; k < hidden; ++k) {
                const float weight = weights[k] * layer.attention_norm[k];
                square += weight * weight;
            }
            sums[output % (dim / 2)] += square;
        }
        return sums;
    }

    void make_room(const Step& step) {
        const int64_t hidden = shape_.hidden_size;
        hidden_.resize(step.rows * hidden);
        qkv_.resize(step.rows * qkv_width());
        gate_up_.resize(std::min<int64_t>(step.rows, kFew) * 2 * shape_.intermediate_size);
        activated_.resize(step.rows * layers_.front().down->stride());
        size_t stride = head().stride();
        for (const Layer& layer : layers_)
            for (const auto* each : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down})
                stride = std::max(stride, (*each)->stride());
        input_.resize(std::max(step.rows, step.wanted) * stride);
        best_.assign(team_.size() * step.wanted, {-std::numeric_limits<float>::infinity(), 0});
        int64_t longest = 0;
        for (int s = 0; s < step.segments; ++s)
            longest = std::max(longest, step.segment[s].cached + step.segment[s].rows);
        longest = (longest / kLanes + 2) * kLanes;
        for (Room& room : rooms_) {
            if constexpr (!Pairs<Entry>::kThere) room.scores.resize(kBlock * longest);
            room.row.resize(hidden);
            room.gates.resize(step.rows * kTogether);
        }
    }

    void forward(Part part, const Step& step) {
        const int rows = step.rows, hidden = shape_.hidden_size;
        const Sink to_qkv = writer(qkv_.data(), qkv_width());
        const Sink to_hidden = [&](const Products& products) {
            float* to = &hidden_[size_t(products.row) * hidden + products.first];
            for (int row = 0; row < products.rows; ++row, to += hidden)
                for (int i = 0; i < products.outputs; ++i) to[i] += products.of(row)[i];
        };
        for (int row = part.first(rows); row < part.last(rows); ++row)
            embedding_->copy_row(step.tokens[row], &hidden_[size_t(row) * hidden]);
        for (int64_t index = 0; index < step.layers; ++index) {
            const Layer& layer = layers_[index];
            normalise(part, rows, nullptr, layer.attention_norm, *layer.qkv);
            team_.barrier();
            layer.qkv->multiply(part, input_.data(), rows, to_qkv);
            team_.barrier();
            rotate_and_keep(part, step, index);
            team_.barrier();
            for (int s = 0; s < step.segments; ++s) attend(part, step, step.segment[s], index);
            team_.barrier();
            layer.output->multiply(part, input_.data(), rows, to_hidden);
            team_.barrier();
            normalise(part, rows, nullptr, layer.mlp_norm, *layer.gate_up);
            team_.barrier();
            activate(part, layer, rows);
            team_.barrier();
            layer.down->multiply(part, activated_.data(), rows, to_hidden);
            team_.barrier();
        }
        normalise(part, step.wanted, step.wanted_rows, norm_, head());
        team_.barrier();
        choose(part, step);
    }

    static Sink writer(float* to, int width) {
        return [=](const Products& products) {
            for (int row = 0; row < products.rows; ++row)
                std::memcpy(to + size_t(products.row + row) * width + products.first, products.of(row),
                            sizeof(float) * products.outputs);
        };
    }

    // Input of `next` = hidden / rms(hidden) * weight, of all rows or of the chosen ones.
    void normalise(Part part, int rows, const int64_t* chosen, const float* weight, const Matrix& next) {
        const int size = shape_.hidden_size;
        for (int row = part.first(rows); row < part.last(rows); ++row) {
            const float* x = &hidden_[size_t(chosen ? chosen[row] : row) * size];
            Vec squares{};
            int i = 0;
            for (; i + kLanes <= size; i += kLanes) squares += load(x + i) * load(x + i);
            float total = sum(squares);
            for (; i < size; ++i) total += x[i] * x[i];
            const float scale = 1 / std::sqrt(total / size + float(shape_.rms_norm_eps));
            float* normed = rooms_[part.index].row.data();
            for (i = 0; i < size; ++i) normed[i] = x[i] * scale * weight[i];
            next.take(normed, 0, size, &input_[row * next.stride()]);
        }
    }

    // Where the keys of one sequence and head begin, and where its values do.
    Entry* keys(int layer, int64_t slot, int head) const {
        return static_cast<Entry*>(memory_.keys) + first_entry(layer, slot, head) * key_width();
    }
    Entry* values(int layer, int64_t slot, int head) const {
        return static_cast<Entry*>(memory_.values) + first_entry(layer, slot, head) * shape_.head_dim;
    }
    int64_t first_entry(int layer, int64_t slot, int head) const {
        return ((layer * memory_.slots + slot) * shape_.kv_heads + head) * memory_.capacity;
    }
    int key_width() const { return shape_.head_dim + (kBytes ? kFine : 0); }

    // Where the scales of one sequence's and head's entries begin.
    float* scales(float* all, int layer, int64_t slot, int head) const {
        return all + first_entry(layer, slot, head);
    }

    Kept<Entry> kept(int layer, int64_t slot, int head) const {
        return {keys(layer, slot, head), values(layer, slot, head),
                scales(memory_.key_scales, layer, slot, head), scales(memory_.value_scales, layer, slot, head)};
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
                if constexpr (kBytes) level(qkv, layers_[layer].sizes.data());
                for (int head = 0; head < kv_heads; ++head)
                    keep(qkv + (heads + head) * dim, qkv + (heads + kv_heads + head) * dim, segment.cached + i,
                         layer, segment.slot, head);
            }
        }
    }

    // Divides a row's keys by their sizes, and multiplies its queries by them.
    void level(float* qkv, const float* sizes) const {
        const int dim = shape_.head_dim, half = dim / 2, heads = shape_.heads, kv_heads = shape_.kv_heads;
        for (int head = 0; head < heads + kv_heads; ++head) {
            float* x = qkv + head * dim;
            const float* of = sizes + (head < heads ? head / (heads / kv_heads) : head - heads) * half;
            for (int k = 0; k < dim; ++k) x[k] = head < heads ? x[k] * of[k % half] : x[k] / of[k % half];
        }
    }

    const int* fine(int layer, int head) const { return kBytes ? &layers_[layer].fine[head * kFine] : nullptr; }

    // Writes one entry of the cache.
    void keep(const float* key, const float* value, int64_t place, int layer, int64_t slot, int head) const {
        const int dim = shape_.head_dim;
        Entry* key_to = keys(layer, slot, head) + place * key_width();
        Entry* value_to = values(layer, slot, head) + place * dim;
        if constexpr (kBytes) {
            scales(memory_.key_scales, layer, slot, head)[place] = keep_key(key, dim, fine(layer, head), key_to);
            scales(memory_.value_scales, layer, slot, head)[place] = keep_value(value, dim, value_to);
        } else {
            for (int k = 0; k < dim; ++k) from_float(key[k], key_to + k);
            for (int k = 0; k < dim; ++k) from_float(value[k], value_to + k);
        }
    }

    // The output matrix's input = softmax(q k / sqrt(d)) v for every row and head of a segment.
    void attend(Part part, const Step& step, const Segment& segment, int layer) {
        const int queries = segment.rows * (shape_.heads / shape_.kv_heads);
        int each = queries < kBlock * kBlock ? kQueries : kBlock;  // of few, every thread has a part
        if constexpr (Pairs<Entry>::kThere)
            each = std::clamp(int(queries * shape_.kv_heads / team_.size()), kQueries, kLargest);
        const int blocks = (queries + each - 1) / each, all = blocks * shape_.kv_heads;
        for (int item = part.first(all); item < part.last(all); ++item) {
            const int first = item % blocks * each, count = std::min(queries - first, each);
            if constexpr (Pairs<Entry>::kThere) attend_in_pairs(part, step, segment, layer, item / blocks, first, count);
            else attend_block(part, step, segment, layer, item / blocks, first, count);
        }
    }

    // The same for `count` of the queries that share a head of keys and values; they are counted row by row.
    void attend_in_pairs(Part part, const Step& step, const Segment& segment, int layer, int kv_head, int first,
                         int count) {
        const int dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
        const int common = (segment.cached + (segment.visible < 0 ? first / group + 1 : 0)) / 2 * 2;
        Pairs<Entry>& pairs = rooms_[part.index].pairs;
        pairs.clear(common);
        for (int i = first; i < first + count; ++i) {
            const int64_t row = segment.first_row + i / group;
            if (i == first || i % group == 0) {
                pairs.add_row();
                each_besides(step, segment, i / group, common, [&](int64_t position) { pairs.add_entry(position); });
            }
            pairs.add_query(&qkv_[row * qkv_width() + (kv_head * group + i % group) * dim], fine(layer, kv_head));
        }
        pairs.attend(kept(layer, segment.slot, kv_head));
        const Matrix& next = *layers_[layer].output;
        for (int i = first; i < first + count; ++i) {
            float mixed[kMaxDim];
            pairs.copy_result(i - first, mixed);
            next.take(mixed, (kv_head * group + i % group) * dim, dim,
                      &input_[(segment.first_row + i / group) * next.stride()]);
        }
    }

    // The same for `count` of the queries that share a head of keys and values; they are counted row by row.
    void attend_block(Part part, const Step& step, const Segment& segment, int layer, int kv_head, int first, int count) {
        const int dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
        const Entry* keys = this->keys(layer, segment.slot, kv_head);
        const Entry* values = this->values(layer, segment.slot, kv_head);
        std::vector<float>& room = rooms_[part.index].scores;
        const float* query[kBlock];
        float* scores[kBlock];
        for (int q = 0; q < kBlock; ++q) {
            const int i = first + std::min(q, count - 1);
            query[q] = &qkv_[(segment.first_row + i / group) * qkv_width() + (kv_head * group + i % group) * dim];
            scores[q] = room.data() + q * (room.size() / kBlock);
        }
        // First the entries that all rows of the block see, together; then those that each row sees besides.
        const int common = segment.cached + (segment.visible < 0 ? first / group + 1 : 0);
        each_few(common, count, [&](auto few, int q, int start, int end) {
            score<few()>(query + q, keys, start, end, scores + q);
        });
        alignas(64) float mixed[kBlock][kMaxDim] = {};
        float total[kBlock];
        for (int q = 0; q < count; ++q) {
            int seen = common;
            each_besides(step, segment, (first + q) / group, common, [&](int64_t position) {
                Vec products{};
                for (int k = 0; k < dim; k += kLanes) products += load(query[q] + k) * load(keys + position * dim + k);
                scores[q][seen++] = sum(products);
            });
            total[q] = soften(scores[q], seen, 1 / std::sqrt(float(dim)));
        }
        each_few(common, count, [&](auto few, int q, int start, int end) {
            mix<few()>(scores + q, values, start, end, mixed + q);
        });
        for (int q = 0; q < count; ++q) {
            int seen = common;
            each_besides(step, segment, (first + q) / group, common, [&](int64_t position) {
                const float weight = scores[q][seen++];
                for (int k = 0; k < dim; k += kLanes)
                    store(mixed[q] + k, load(mixed[q] + k) + weight * load(values + position * dim + k));
            });
            const int head = kv_head * group + (first + q) % group;
            for (int k = 0; k < dim; ++k) mixed[q][k] /= total[q];
            const Matrix& next = *layers_[layer].output;
            next.take(mixed[q], head * dim, dim, &input_[(segment.first_row + (first + q) / group) * next.stride()]);
        }
    }

    // Calls visit(few, q, start, end) for `few` queries from q on and the entries from start to end, until all have met:
    // those near each other in turn, so that the memory brings them once a block. The same numbers whatever few is.
    template <typename Visit>
    static void each_few(int entries, int count, Visit visit) {
        for (int start = 0; start < entries; start += kNear)
            for (int q = 0; q < count; q += kQueries) {
                const int end = std::min(start + kNear, entries);
                if (count - q <= kQueries / 2) visit(std::integral_constant<int, kQueries / 2>(), q, start, end);
                else visit(std::integral_constant<int, kQueries>(), q, start, end);
            }
    }

    // Calls visit(position) for the entries from `common` on that a row of the segment sees, oldest first.
    template <typename Visit>
    static void each_besides(const Step& step, const Segment& segment, int row, int common, Visit visit) {
        if (segment.visible < 0) {
            for (int64_t position = common; position <= segment.cached + row; ++position) visit(position);
            return;
        }
        for (int64_t position = common; position < segment.cached; ++position) visit(position);
        const uint64_t* words = step.visible + segment.visible + row * ((segment.rows + 63) / 64);
        for (int word = 0; word * 64 <= row; ++word)
            for (uint64_t bits = words[word]; bits; bits &= bits - 1)
                visit(segment.cached + word * 64 + __builtin_ctzll(bits));
    }

    // scores[q][i] = query[q] . keys[i] for the keys from `start` to `end`.
    template <int Queries>
    void score(const float* const* query, const Entry* keys, int start, int end, float* const* scores) const {
        constexpr int kKeys = kLanes / Queries;
        const int dim = shape_.head_dim;
        for (int i = start; i < end; i += kKeys) {
            Vec products[Queries * kKeys] = {};
            const Entry* key[kKeys];
            for (int j = 0; j < kKeys; ++j) key[j] = keys + size_t(std::min(i + j, end - 1)) * dim;
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
        constexpr float kLeast = -std::numeric_limits<float>::infinity();
        std::fill(scores + count, scores + (count + kLanes - 1) / kLanes * kLanes, kLeast);
        Vec most = Vec{} + kLeast;
        for (int i = 0; i < count; i += kLanes) {
            const Vec more = load(scores + i);
            most = more > most ? more : most;
        }
        float lanes[kLanes];
        store(lanes, most);
        const float largest = *std::max_element(lanes, lanes + kLanes);
        Vec total{};
        for (int i = 0; i < count; i += kLanes) {
            const Vec raised = exp((load(scores + i) - largest) * scale);
            store(scores + i, raised);
            total += raised;
        }
        return sum(total);
    }

    // mixed[q] += the values from `start` to `end`, weighted by scores[q].
    template <int Queries>
    void mix(float* const* scores, const Entry* values, int start, int end, float (*mixed)[kMaxDim]) const {
        const int dim = shape_.head_dim;
        for (int first = 0; first < dim; first += kMixed * kLanes) {
            Vec sums[Queries][kMixed];
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < kMixed; ++v) sums[q][v] = load(mixed[q] + first + v * kLanes);
            for (int i = start; i < end; ++i)
                for (int v = 0; v < kMixed; ++v) {
                    const Vec value = load(values + size_t(i) * dim + first + v * kLanes);
                    for (int q = 0; q < Queries; ++q) sums[q][v] += scores[q][i] * value;
                }
            for (int q = 0; q < Queries; ++q)
                for (int v = 0; v < kMixed; ++v) store(mixed[q] + first + v * kLanes, sums[q][v]);
        }
    }

    // Input of `down` = silu(gate) * up.
    void activate(Part part, const Layer& layer, int rows) {
        const int inter = shape_.intermediate_size;
        if (rows > kFew) return layer.gate_up->multiply_halves(part, input_.data(), rows, activator(part, *layer.down));
        layer.gate_up->multiply(part, input_.data(), rows, writer(gate_up_.data(), 2 * inter));
        team_.barrier();
        for (int row = part.first(rows); row < part.last(rows); ++row) {
            float* gate = &gate_up_[size_t(row) * 2 * inter];
            for (int i = 0; i < inter; i += kPanel) open_gate(gate + i, gate + inter + i);
            layer.down->take(gate, 0, inter, &activated_[row * layer.down->stride()]);
        }
    }

    // Takes products of gate_up's halves, of which it keeps those that the other half's or a group's are to come to.
    Sink activator(Part part, const Matrix& down) {
        return [this, gates = rooms_[part.index].gates.data(), &down](const Products& products) {
            const int inter = shape_.intermediate_size, first = products.first % inter, place = first % kTogether;
            for (int index = 0; index < products.rows; ++index) {
                const int row = products.row + index;
                float* group = gates + row * kTogether;
                const float* values = products.of(index);
                if (products.first < inter) {
                    std::memcpy(group + place, values, sizeof(float) * kPanel);
                    continue;
                }
                open_gate(group + place, values);
                if (place + kPanel == kTogether)
                    down.take(group, first - place, kTogether, &activated_[row * down.stride()]);
            }
        };
    }

    // gate = silu(gate) * up, of a panel's outputs.
    static void open_gate(float* gate, const float* up) {
        for (int i = 0; i < kPanel; i += kLanes) {
            const Vec x = load(gate + i);
            store(gate + i, x / (exp(-x) + 1.0f) * load(up + i));
        }
    }

    // The best of this part's tokens for every wanted row, and the logits where somebody wants them.
    void choose(Part part, const Step& step) {
        Best* best = &best_[part.index * step.wanted];
        head().multiply(part, input_.data(), step.wanted, [&](const Products& products) {
            for (int index = 0; index < products.rows; ++index) {
                const int row = products.row + index, first = products.first;
                const float* values = products.of(index);
                for (int i = 0; i < products.outputs; ++i)
                    if (values[i] > best[row].logit || (values[i] == best[row].logit && first + i < best[row].token))
                        best[row] = {values[i], first + i};
                if (step.logits)
                    std::memcpy(step.logits + row * shape_.vocab_size + first, values, sizeof(float) * products.outputs);
            }
        });
    }

    const Shape shape_;
    const Memory memory_;
    Team team_;
    std::unique_ptr<Matrix> embedding_, head_;
    const float* norm_;
    std::vector<Layer> layers_;
    // Of the step at hand, [rows, ...]: the residual stream, what comes out of the first matrix of each block's halves (of
    // the second half's only of few rows), the next matrix's input, and that of `down`.
    std::vector<float> hidden_, qkv_, gate_up_;
    std::vector<std::byte> input_, activated_;
    struct Room {
        explicit Room(int head_dim) : pairs(head_dim) {}

        std::vector<float> scores;  // [kQueries, entries]
        std::vector<float> row;     // [hidden_size]
        std::vector<float> gates;   // [rows, kTogether]
        Pairs<Entry> pairs;
    };
    std::vector<Room> rooms_;  // a thread's
    std::vector<Best> best_;                  // [threads, wanted]
};

}  // namespace

// --- What Python calls. The structures are those of native.py. ---

extern "C" {

// `tensors`: those of the engine's file, which must stay where they are. Null where the kernel refuses the threads.
Model* nimble_open(const Shape* shape, int entry_bytes, int64_t count, const Tensor* tensors, const Memory* memory,
                   int threads) {
    std::unordered_map<std::string, Tensor> named;
    for (int64_t i = 0; i < count; ++i) named[tensors[i].name] = tensors[i];
    try {
        if (entry_bytes == 1) return new Qwen2<int8_t>(*shape, named, *memory, threads);
        if (entry_bytes == 2) return new Qwen2<uint16_t>(*shape, named, *memory, threads);
        return new Qwen2<float>(*shape, named, *memory, threads);
    } catch (const std::system_error&) {
        return nullptr;
    }
}

void nimble_run(Model* model, const Step* step) { model->run(*step); }

void nimble_close(Model* model) { delete model; }
}
