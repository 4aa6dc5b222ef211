// The kernels of this crate for NVIDIA GPUs, compiled when they are first needed. Values are float or bfloat16, sums and functions float.
//
// Nothing is included, so that a driver and its compiler library are enough. Each kernel takes as many values as there are threads, and
// goes on in steps of all of them. `on_cpu.rs` runs them on the CPU.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct bf16 {
    u16 bits;
};

__device__ inline float wide(float value) { return value; }

__device__ inline float wide(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

template <typename T> __device__ T narrow(float value);

template <> __device__ inline float narrow<float>(float value) { return value; }

// To the nearest, of two to the even one; a NaN stays one.
template <> __device__ inline bf16 narrow<bf16>(float value) {
    u32 bits = __float_as_uint(value);
    bf16 result;
    if ((bits & 0x7fffffff) > 0x7f800000) {
        result.bits = (u16)(bits >> 16 | 0x40);
    } else {
        result.bits = (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    return result;
}

#define EACH(i, n)                                                                                                         \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x)

// `Key::bits`: the i-th 64 random bits of a key.
__device__ inline u64 random_bits(u64 key, u64 index) {
    u64 z = key + index * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

// What dropout multiplies the value at a place by.
__device__ inline float factor(u64 key, u64 threshold, float scale, u64 index) {
    return random_bits(key, index) >> 32 < threshold ? 0.0f : scale;
}

template <typename T>
__device__ void dropout(const T *x, T *y, u64 n, u64 key, u64 threshold, float scale) {
    EACH(i, n) { y[i] = narrow<T>(wide(x[i]) * factor(key, threshold, scale, i)); }
}

template <typename T>
__device__ void add_dropout(const T *x, const T *branch, T *y, u64 n, u64 key, u64 threshold, float scale) {
    EACH(i, n) { y[i] = narrow<T>(wide(x[i]) + wide(branch[i]) * factor(key, threshold, scale, i)); }
}

// Rows of `keys` probabilities, of which every 16 are decided by 8 words: the first half by their low bits, the second by their high ones.
template <typename T>
__device__ void attention_dropout(const T *x, T *y, u64 n, u64 keys, u64 key, u32 threshold, float scale) {
    u64 words = (keys + 15) / 16 * 8;
    EACH(i, n) {
        u64 row = i / keys, column = i % keys;
        u64 bits = random_bits(key, row * words + column / 16 * 8 + column % 8);
        u32 chance = column % 16 < 8 ? (u32)bits : (u32)(bits >> 32);
        y[i] = narrow<T>(wide(x[i]) * (chance < threshold ? 0.0f : scale));
    }
}

__device__ inline float normal_distribution(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

template <typename T> __device__ void gelu(const T *x, T *y, u64 n) {
    EACH(i, n) {
        float value = wide(x[i]);
        y[i] = narrow<T>(value * normal_distribution(value));
    }
}

template <typename T> __device__ void gelu_backward(const T *x, const T *dy, T *dx, u64 n) {
    EACH(i, n) {
        float value = wide(x[i]);
        float density = 0.3989423f * expf(-0.5f * value * value);
        dx[i] = narrow<T>(wide(dy[i]) * (normal_distribution(value) + value * density));
    }
}

#define FOR_BOTH_TYPES(T, suffix)                                                                                          \
    extern "C" __global__ void dropout_##suffix(const T *x, T *y, u64 n, u64 key, u64 threshold, float scale) {           \
        dropout<T>(x, y, n, key, threshold, scale);                                                                        \
    }                                                                                                                      \
    extern "C" __global__ void add_dropout_##suffix(const T *x, const T *branch, T *y, u64 n, u64 key, u64 threshold,     \
                                                    float scale) {                                                         \
        add_dropout<T>(x, branch, y, n, key, threshold, scale);                                                            \
    }                                                                                                                      \
    extern "C" __global__ void attention_dropout_##suffix(const T *x, T *y, u64 n, u64 keys, u64 key, u32 threshold,      \
                                                          float scale) {                                                   \
        attention_dropout<T>(x, y, n, keys, key, threshold, scale);                                                        \
    }                                                                                                                      \
    extern "C" __global__ void gelu_##suffix(const T *x, T *y, u64 n) { gelu<T>(x, y, n); }                                \
    extern "C" __global__ void gelu_backward_##suffix(const T *x, const T *dy, T *dx, u64 n) {                            \
        gelu_backward<T>(x, dy, dx, n);                                                                                    \
    }

FOR_BOTH_TYPES(float, f32)
FOR_BOTH_TYPES(bf16, bf16)

// One step of Adam, as `adam.rs` has it.
extern "C" __global__ void adam_f32(float *parameter, float *first, float *second, const float *gradient, u64 n, float first_rate,
                                    float second_rate, float step_size, float epsilon) {
    EACH(i, n) {
        float g = gradient[i];
        float m = first[i] + (g - first[i]) * first_rate;
        float v = second[i] + (g * g - second[i]) * second_rate;
        first[i] = m;
        second[i] = v;
        parameter[i] -= m * step_size / (sqrtf(v) + epsilon);
    }
}
