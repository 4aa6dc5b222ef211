// Runs a kernel of kernels.cu on the CPU, thread after thread: what each computes is a function of its number alone.
//
// The command line has the kernel's name, the number of values and its numbers; standard input the buffers it reads, one after another;
// standard output gets those it writes.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

struct Place {
    unsigned x;
};
static Place threadIdx, blockIdx;
static const Place blockDim{32}, gridDim{3};

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

#include "kernels.cu"

template <typename Kernel> static void launch(Kernel kernel) {
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel();
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
