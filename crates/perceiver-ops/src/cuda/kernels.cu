// The kernels of this crate for NVIDIA GPUs, compiled when they are first needed. Values are float or bfloat16, sums and functions float.
//
// Nothing is included, so that a driver and its compiler library are enough. Each kernel takes as many values as there are threads, or rows
// as there are warps, and goes on in steps of all of them. `on_cpu.rs` runs them on the CPU.

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

// Kernels of rows: each warp takes one after another, its lanes every 32nd value.

#define EACH_ROW(row, rows)                                                                                                \
    for (u64 row = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32; row < rows; row += (u64)gridDim.x * blockDim.x / 32)

#define EACH_COLUMN(i, width) for (u64 i = threadIdx.x % 32; i < width; i += 32)

__device__ inline float warp_sum(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffff, value, lane);
    return value;
}

__device__ inline float warp_max(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, lane));
    return value;
}

template <typename T> __device__ void softmax(const T *x, T *y, u64 n, u64 width) {
    EACH_ROW(row, n / width) {
        const T *from = x + row * width;
        T *to = y + row * width;
        float most = __uint_as_float(0xff800000); // minus infinity
        EACH_COLUMN(i, width) { most = fmaxf(most, wide(from[i])); }
        most = warp_max(most);
        float sum = 0;
        EACH_COLUMN(i, width) { sum += expf(wide(from[i]) - most); }
        sum = warp_sum(sum);
        EACH_COLUMN(i, width) { to[i] = narrow<T>(expf(wide(from[i]) - most) / sum); }
    }
}

template <typename T> __device__ void softmax_backward(const T *y, const T *dy, T *dx, u64 n, u64 width) {
    EACH_ROW(row, n / width) {
        u64 start = row * width;
        float dot = 0;
        EACH_COLUMN(i, width) { dot += wide(y[start + i]) * wide(dy[start + i]); }
        dot = warp_sum(dot);
        EACH_COLUMN(i, width) { dx[start + i] = narrow<T>(wide(y[start + i]) * (wide(dy[start + i]) - dot)); }
    }
}

// The mean of a row, and one by its deviation.
struct Norm {
    float mean, scale;
};

template <typename T> __device__ Norm norm_of(const T *x, u64 width, float epsilon) {
    float sum = 0;
    EACH_COLUMN(i, width) { sum += wide(x[i]); }
    float mean = warp_sum(sum) / width;
    float squares = 0;
    EACH_COLUMN(i, width) {
        float centred = wide(x[i]) - mean;
        squares += centred * centred;
    }
    return {mean, 1.0f / sqrtf(warp_sum(squares) / width + epsilon)};
}

template <typename T>
__device__ void layer_norm(const T *x, const T *gamma, const T *beta, T *y, u64 n, u64 width, float epsilon) {
    EACH_ROW(row, n / width) {
        const T *from = x + row * width;
        Norm norm = norm_of(from, width, epsilon);
        EACH_COLUMN(i, width) {
            float normalized = (wide(from[i]) - norm.mean) * norm.scale;
            y[row * width + i] = narrow<T>(normalized * wide(gamma[i]) + wide(beta[i]));
        }
    }
}

template <typename T>
__device__ void layer_norm_backward(const T *x, const T *gamma, const T *dy, T *dx, u64 n, u64 width, float epsilon) {
    EACH_ROW(row, n / width) {
        u64 start = row * width;
        Norm norm = norm_of(x + start, width, epsilon);
        float sum = 0, dot = 0;
        EACH_COLUMN(i, width) {
            float g = wide(dy[start + i]) * wide(gamma[i]);
            sum += g;
            dot += g * (wide(x[start + i]) - norm.mean) * norm.scale;
        }
        float mean = warp_sum(sum) / width, mean_dot = warp_sum(dot) / width;
        EACH_COLUMN(i, width) {
            float g = wide(dy[start + i]) * wide(gamma[i]);
            float normalized = (wide(x[start + i]) - norm.mean) * norm.scale;
            dx[start + i] = narrow<T>((g - mean - normalized * mean_dot) * norm.scale);
        }
    }
}

// `sums` has, for each warp, those of its rows that the gradients of gamma and of beta are made of, `[warps, 2, width]`.
template <typename T>
__device__ void layer_norm_weights(const T *x, const T *dy, float *sums, u64 n, u64 width, float epsilon) {
    u64 warp = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    float *gammas = sums + warp * 2 * width, *betas = gammas + width;
    EACH_COLUMN(i, width) { gammas[i] = betas[i] = 0; }
    EACH_ROW(row, n / width) {
        u64 start = row * width;
        Norm norm = norm_of(x + start, width, epsilon);
        EACH_COLUMN(i, width) {
            float g = wide(dy[start + i]);
            gammas[i] += g * (wide(x[start + i]) - norm.mean) * norm.scale;
            betas[i] += g;
        }
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
    }                                                                                                                      \
    extern "C" __global__ void softmax_##suffix(const T *x, T *y, u64 n, u64 width) { softmax<T>(x, y, n, width); }       \
    extern "C" __global__ void softmax_backward_##suffix(const T *y, const T *dy, T *dx, u64 n, u64 width) {              \
        softmax_backward<T>(y, dy, dx, n, width);                                                                          \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_##suffix(const T *x, const T *gamma, const T *beta, T *y, u64 n, u64 width,     \
                                                   float epsilon) {                                                        \
        layer_norm<T>(x, gamma, beta, y, n, width, epsilon);                                                               \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_backward_##suffix(const T *x, const T *gamma, const T *dy, T *dx, u64 n,        \
                                                            u64 width, float epsilon) {                                    \
        layer_norm_backward<T>(x, gamma, dy, dx, n, width, epsilon);                                                       \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_weights_##suffix(const T *x, const T *dy, float *sums, u64 n, u64 width,        \
                                                           float epsilon) {                                                \
        layer_norm_weights<T>(x, dy, sums, n, width, epsilon);                                                             \
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
