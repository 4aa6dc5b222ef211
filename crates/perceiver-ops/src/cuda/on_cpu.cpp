// Runs a kernel of kernels.cu on the CPU, warp after warp; the threads of one are threads here, which wait for one another where they
// exchange values.
//
// The command line has the kernel's name, the number of values and its numbers; standard input the buffers it reads, one after another;
// standard output gets those it writes.

#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
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

#include "kernels.cu"

template <typename Kernel> static void launch(Kernel kernel) {
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

template <typename T> static std::vector<T> read(u64 n) {
    std::vector<T> values(n);
    if (fread(values.data(), sizeof(T), n, stdin) != n) exit(2);
    return values;
}

template <typename T> static void write(const std::vector<T> &values) { fwrite(values.data(), sizeof(T), values.size(), stdout); }

int main(int, char **arguments) {
    std::string name = arguments[1];
    u64 n = strtoull(arguments[2], nullptr, 10);
    auto whole = [&](int at) { return strtoull(arguments[3 + at], nullptr, 10); };
    auto number = [&](int at) { return strtof(arguments[3 + at], nullptr); };
#define RUN_FOR(T, suffix)                                                                                                 \
    if (name == "dropout_" #suffix) {                                                                                      \
        auto x = read<T>(n);                                                                                               \
        std::vector<T> y(n);                                                                                               \
        launch([&] { dropout_##suffix(x.data(), y.data(), n, whole(0), whole(1), number(2)); });                          \
        write(y);                                                                                                          \
    } else if (name == "add_dropout_" #suffix) {                                                                           \
        auto x = read<T>(n), branch = read<T>(n);                                                                          \
        std::vector<T> y(n);                                                                                               \
        launch([&] { add_dropout_##suffix(x.data(), branch.data(), y.data(), n, whole(0), whole(1), number(2)); });       \
        write(y);                                                                                                          \
    } else if (name == "attention_dropout_" #suffix) {                                                                     \
        auto x = read<T>(n);                                                                                               \
        std::vector<T> y(n);                                                                                               \
        launch([&] { attention_dropout_##suffix(x.data(), y.data(), n, whole(0), whole(1), whole(2), number(3)); });      \
        write(y);                                                                                                          \
    } else if (name == "gelu_" #suffix) {                                                                                  \
        auto x = read<T>(n);                                                                                               \
        std::vector<T> y(n);                                                                                               \
        launch([&] { gelu_##suffix(x.data(), y.data(), n); });                                                             \
        write(y);                                                                                                          \
    } else if (name == "gelu_backward_" #suffix) {                                                                         \
        auto x = read<T>(n), dy = read<T>(n);                                                                              \
        std::vector<T> dx(n);                                                                                              \
        launch([&] { gelu_backward_##suffix(x.data(), dy.data(), dx.data(), n); });                                        \
        write(dx);                                                                                                         \
    } else if (name == "softmax_" #suffix) {                                                                               \
        auto x = read<T>(n);                                                                                               \
        std::vector<T> y(n);                                                                                               \
        launch([&] { softmax_##suffix(x.data(), y.data(), n, whole(0)); });                                                \
        write(y);                                                                                                          \
    } else if (name == "softmax_backward_" #suffix) {                                                                      \
        auto y = read<T>(n), dy = read<T>(n);                                                                              \
        std::vector<T> dx(n);                                                                                              \
        launch([&] { softmax_backward_##suffix(y.data(), dy.data(), dx.data(), n, whole(0)); });                          \
        write(dx);                                                                                                         \
    } else if (name == "layer_norm_" #suffix) {                                                                            \
        u64 width = whole(0);                                                                                              \
        auto x = read<T>(n), gamma = read<T>(width), beta = read<T>(width);                                                \
        std::vector<T> y(n);                                                                                               \
        launch([&] { layer_norm_##suffix(x.data(), gamma.data(), beta.data(), y.data(), n, width, number(1)); });         \
        write(y);                                                                                                          \
    } else if (name == "layer_norm_backward_" #suffix) {                                                                   \
        u64 width = whole(0);                                                                                              \
        auto x = read<T>(n), gamma = read<T>(width), dy = read<T>(n);                                                      \
        std::vector<T> dx(n);                                                                                              \
        launch([&] { layer_norm_backward_##suffix(x.data(), gamma.data(), dy.data(), dx.data(), n, width, number(1)); }); \
        write(dx);                                                                                                         \
    } else if (name == "layer_norm_weights_" #suffix) {                                                                    \
        u64 width = whole(0);                                                                                              \
        auto x = read<T>(n), dy = read<T>(n);                                                                              \
        std::vector<float> sums(gridDim.x * 2 * width, NAN);                                                               \
        launch([&] { layer_norm_weights_##suffix(x.data(), dy.data(), sums.data(), n, width, number(1)); });              \
        write(sums);                                                                                                       \
    } else
    RUN_FOR(float, f32)
    RUN_FOR(bf16, bf16)
    if (name == "adam_f32") {
        auto parameter = read<float>(n), first = read<float>(n), second = read<float>(n), gradient = read<float>(n);
        launch([&] {
            adam_f32(parameter.data(), first.data(), second.data(), gradient.data(), n, number(0), number(1), number(2),
                     number(3));
        });
        write(parameter);
        write(first);
        write(second);
    } else {
        return 3;
    }
    return 0;
}
