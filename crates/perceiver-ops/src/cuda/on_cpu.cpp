// Runs a kernel of kernels.cu on the CPU, warp after warp; the threads of one are threads here, which wait for one another where they
// exchange values.
//
// The command line has the kernel's name and its arguments in order: of a buffer the number of values, and numbers as they are.
// Standard input has the buffers that are read, one after another; standard output gets those that are written.

#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

struct Place {
    unsigned x;
};
static thread_local Place threadIdx;
static Place blockIdx;
static const Place blockDim{32}, gridDim{3};

// What the lanes of the warp show one another.
static std::barrier<> lanes(32);
static float shown[32];

#define __device__
#define __global__

static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float __shfl_xor_sync(unsigned, float value, int other) {
    shown[threadIdx.x] = value;
    lanes.arrive_and_wait();
    value = shown[threadIdx.x ^ other];
    lanes.arrive_and_wait();
    return value;
}

#define __expf expf
#include "kernels.cu"

template <typename Kernel> static void in_warps(Kernel kernel) {
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
        std::vector<std::thread> warp;
        for (unsigned lane = 0; lane < 32; ++lane)
            warp.emplace_back([&, lane] {
                threadIdx.x = lane;
                kernel();
            });
        for (auto &thread : warp) thread.join();
    }
}

// An argument of a kernel, from its word on the command line.
template <typename T> struct Argument;

template <> struct Argument<u64> {
    u64 value;
    explicit Argument(const char *word) : value(strtoull(word, nullptr, 10)) {}
    u64 get() { return value; }
    void write() {}
};

template <> struct Argument<u32> {
    u32 value;
    explicit Argument(const char *word) : value(strtoul(word, nullptr, 10)) {}
    u32 get() { return value; }
    void write() {}
};

template <> struct Argument<float> {
    float value;
    explicit Argument(const char *word) : value(strtof(word, nullptr)) {}
    float get() { return value; }
    void write() {}
};

template <typename T> static std::vector<T> read(const char *count) {
    std::vector<T> values(strtoull(count, nullptr, 10));
    if (fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) exit(2);
    return values;
}

template <typename T> struct Argument<const T *> {
    std::vector<T> values;
    explicit Argument(const char *word) : values(read<T>(word)) {}
    const T *get() { return values.data(); }
    void write() {}
};

template <typename T> struct Argument<T *> {
    std::vector<T> values;
    explicit Argument(const char *word) {
        values.resize(strtoull(word, nullptr, 10));
        memset(static_cast<void *>(values.data()), 0xff, values.size() * sizeof(T)); // NaN
    }
    T *get() { return values.data(); }
    void write() { fwrite(values.data(), sizeof(T), values.size(), stdout); }
};

// All parameters of a step, two of them: the words are how many values each has and the length of a chunk; of each, values, both moments
// and gradient are read, and all but gradients written.
struct Parameters {
    std::vector<float> buffers[2][4];
    std::vector<Parameter> parameters;
    std::vector<Chunk> chunks;
    u64 length;

    explicit Parameters(char **words) : length(strtoull(words[2], nullptr, 10)) {
        for (u32 number = 0; number < 2; ++number) {
            auto &b = buffers[number];
            for (auto &buffer : b) buffer = read<float>(words[number]);
            u64 count = b[0].size();
            parameters.push_back({b[0].data(), b[1].data(), b[2].data(), b[3].data(), count, chunks.size(), 0.125f * number, 0.25f});
            for (u32 index = 0; index * length < count; ++index) chunks.push_back({number, index});
        }
    }

    void write() {
        for (auto &b : buffers)
            for (int buffer = 0; buffer < 3; ++buffer) fwrite(b[buffer].data(), sizeof(float), b[buffer].size(), stdout);
    }
};

// Steps with numbers that are written here.
static int run_steps(std::string name, char **words) {
    Parameters all(words);
    auto *p = all.parameters.data();
    auto *chunk = all.chunks.data();
    u64 chunks = all.chunks.size();
    float half = 0.5f;
    std::vector<float> sums(2 * chunks, NAN);
    if (name == "adam_steps") {
        in_warps([&] { adam_steps(p, chunk, chunks, all.length, &half, 0.1f, 0.001f, 0.03f, 1e-7f); });
    } else if (name == "lamb_steps") {
        in_warps([&] { lamb_moments(p, chunk, chunks, all.length, nullptr, sums.data(), 0.1f, 0.001f, 10, 1000, 1e-7f, 0.01f); });
        in_warps([&] { lamb_changes(p, chunk, chunks, all.length, sums.data(), 0.1f, 0.001f, 10, 1000, 1e-7f, 0.01f); });
    } else if (name == "move_means") {
        in_warps([&] { move_means(p, chunk, chunks, all.length, 0.25f); });
    } else if (name == "add_all_f32") {
        in_warps([&] { add_all_f32(p, chunk, chunks, all.length); });
    } else if (name == "add_all_bf16") {
        in_warps([&] { add_all_bf16(p, chunk, chunks, all.length); });
    } else if (name == "narrow_all") {
        in_warps([&] { narrow_all(p, chunk, chunks, all.length); });
    } else if (name == "widen_all") {
        in_warps([&] { widen_all(p, chunk, chunks, all.length); });
    } else if (name == "squares") {
        in_warps([&] { squares(p, chunk, chunks, all.length, sums.data()); });
        fwrite(sums.data(), sizeof(float), chunks, stdout);
        return 0;
    } else {
        return 3;
    }
    all.write();
    return 0;
}

template <typename... Types> static int run(void (*kernel)(Types...), char **words) {
    std::tuple<Argument<Types>...> arguments{Argument<Types>(*words++)...};
    std::apply(
        [&](auto &...argument) {
            in_warps([&] { kernel(argument.get()...); });
            (argument.write(), ...);
        },
        arguments);
    return 0;
}

int main(int, char **words) {
    std::string name = words[1];
#define KERNEL(kernel)                                                                                                     \
    if (name == #kernel) return run(kernel, words + 2);
#define KERNELS(kernel) KERNEL(kernel##_f32) KERNEL(kernel##_bf16)
    KERNELS(dropout)
    KERNELS(add_dropout)
    KERNELS(gelu)
    KERNELS(gelu_backward)
    KERNELS(add_bias)
    KERNELS(add_biased_dropout)
    KERNELS(bias_gelu)
    KERNELS(bias_gelu_backward)
    KERNELS(repeat)
    KERNELS(with_ones)
    KERNELS(with_column)
    KERNELS(without_ones)
    KERNELS(neighbourhoods)
    KERNELS(neighbourhoods_backward)
    KERNELS(column_sums)
    KERNELS(column_sums_to_bf16)
    KERNELS(softmax)
    KERNELS(softmax_backward)
    KERNELS(softmax_dropout)
    KERNELS(softmax_dropout_backward)
    KERNELS(softmax_dropout_256)
    KERNELS(softmax_dropout_backward_256)
    KERNELS(softmax_dropout_1024)
    KERNELS(softmax_dropout_backward_1024)
    KERNELS(layer_norm)
    KERNELS(layer_norm_backward)
    KERNELS(layer_norm_weights)
    return run_steps(name, words + 2);
}
