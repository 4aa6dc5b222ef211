// The CUDA kernels of this crate, compiled with NVRTC on first use. Values are float or bfloat16; arithmetic and accumulation are in float.
//
// The file includes no headers, so that a driver and its compiler library are enough. All kernels use grid-stride loops, over values (one
// thread each) or over rows (one warp each). `emulator.rs` runs them on the CPU.

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

// Rounds to nearest, ties to even; a NaN stays a NaN.
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

// `RngKey::bits`: the 64 random bits of a key at an index.
__device__ inline u64 random_bits(u64 key, u64 index) {
    u64 z = key + index * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

// The dropout factor of the value at an index: 0 or `scale`.
__device__ inline float factor(u64 key, u64 threshold, float scale, u64 index) {
    return threshold && random_bits(key, index) >> 32 < threshold ? 0.0f : scale;
}

// Four values, for vectorized loads and stores.
template <typename T> struct alignas(4 * sizeof(T)) Four {
    T at[4];
};

// The column of a value in rows of `width`. 64-bit division takes several times as long as 32-bit division.
__device__ inline u64 column_of(u64 i, u64 width) { return i >> 32 ? i % width : (u32)i % (u32)width; }

// Elementwise map of N inputs: `to[i] = of(values, i, column)`, in rows of `width`. Vectorized by four if the width and the alignment of
// all buffers allow it.
template <typename T, int N, typename Of>
__device__ void each_value(const T *const (&from)[N], T *to, u64 n, u64 width, Of of) {
    bool by_four = width % 4 == 0 && (u64)to % sizeof(Four<T>) == 0;
    for (int k = 0; k < N; ++k) by_four = by_four && (u64)from[k] % sizeof(Four<T>) == 0;
    u64 in_fours = by_four ? n / 4 * 4 : 0;
    EACH(four, in_fours / 4) {
        u64 first = four * 4, column = column_of(first, width);
        Four<T> values[N], result;
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] = *(const Four<T> *)(from[k] + first);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float at[N];
#pragma unroll
            for (int k = 0; k < N; ++k) at[k] = wide(values[k].at[i]);
            result.at[i] = narrow<T>(of(at, first + i, column + i));
        }
        *(Four<T> *)(to + first) = result;
    }
    EACH(left, n - in_fours) {
        u64 place = in_fours + left;
        float at[N];
#pragma unroll
        for (int k = 0; k < N; ++k) at[k] = wide(from[k][place]);
        to[place] = narrow<T>(of(at, place, column_of(place, width)));
    }
}

// The same without columns.
template <typename T, int N, typename Of> __device__ void each_value(const T *const (&from)[N], T *to, u64 n, Of of) {
    each_value(from, to, n, 4, [=](const float(&at)[N], u64 place, u64) { return of(at, place); });
}

template <typename T> __device__ void dropout(const T *x, T *y, u64 n, u64 key, u64 threshold, float scale) {
    const T *from[] = {x};
    each_value(from, y, n, [=](const float(&at)[1], u64 i) { return at[0] * factor(key, threshold, scale, i); });
}

template <typename T>
__device__ void add_dropout(const T *x, const T *branch, T *y, u64 n, u64 key, u64 threshold, float scale) {
    const T *from[] = {x, branch};
    each_value(from, y, n,
               [=](const float(&at)[2], u64 i) { return at[0] + at[1] * factor(key, threshold, scale, i); });
}

__device__ inline float normal_distribution(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

__device__ inline float gelu_of(float x) { return x * normal_distribution(x); }

__device__ inline float gelu_slope(float x) {
    float density = 0.3989423f * expf(-0.5f * x * x);
    return normal_distribution(x) + x * density;
}

template <typename T> __device__ void gelu(const T *x, T *y, u64 n) {
    const T *from[] = {x};
    each_value(from, y, n, [](const float(&at)[1], u64) { return gelu_of(at[0]); });
}

template <typename T> __device__ void gelu_backward(const T *x, const T *dy, T *dx, u64 n) {
    const T *from[] = {x, dy};
    each_value(from, dx, n, [](const float(&at)[2], u64) { return at[1] * gelu_slope(at[0]); });
}

template <typename T> __device__ void add_bias(const T *x, const T *bias, T *y, u64 n, u64 width) {
    const T *from[] = {x};
    each_value(from, y, n, width, [=](const float(&at)[1], u64, u64 column) { return at[0] + wide(bias[column]); });
}

// Fused bias + dropout + residual add.
template <typename T>
__device__ void add_biased_dropout(const T *x, const T *branch, const T *bias, T *y, u64 n, u64 width, u64 key, u64 threshold,
                                   float scale) {
    const T *from[] = {x, branch};
    each_value(from, y, n, width, [=](const float(&at)[2], u64 i, u64 column) {
        return at[0] + (at[1] + wide(bias[column])) * factor(key, threshold, scale, i);
    });
}

template <typename T> __device__ void bias_gelu(const T *x, const T *bias, T *y, u64 n, u64 width) {
    const T *from[] = {x};
    each_value(from, y, n, width,
               [=](const float(&at)[1], u64, u64 column) { return gelu_of(at[0] + wide(bias[column])); });
}

template <typename T> __device__ void bias_gelu_backward(const T *x, const T *bias, const T *dy, T *dx, u64 n, u64 width) {
    const T *from[] = {x, dy};
    each_value(from, dx, n, width, [=](const float(&at)[2], u64, u64 column) {
        return at[1] * gelu_slope(at[0] + wide(bias[column]));
    });
}

// Repeats the first `width` values up to `n` values (broadcast over rows).
template <typename T> __device__ void repeat(const T *x, T *y, u64 width, u64 n) {
    EACH(i, n) { y[i] = x[column_of(i, width)]; }
}

// Pads rows of `width` values to `padded`: appends the bias of the row, or 1 without biases, then zeros.
template <typename T> __device__ void with_column(const T *x, const T *bias, T *y, u64 count, u64 width, u64 padded) {
    EACH(i, count / width * padded) {
        u64 column = column_of(i, padded), row = (i - column) / padded;
        if (column < width) {
            y[i] = x[row * width + column];
        } else if (column == width) {
            y[i] = bias ? bias[row] : narrow<T>(1.0f);
        } else {
            y[i] = narrow<T>(0.0f);
        }
    }
}

// Keeps the first `width` values of rows of `padded` values.
template <typename T> __device__ void without_ones(const T *x, T *y, u64 count, u64 width, u64 padded) {
    EACH(i, count / padded * width) {
        u64 column = column_of(i, width), row = (i - column) / width;
        y[i] = x[row * padded + column];
    }
}

// The geometry of im2col (`im2col.rs`): `rows` x `columns` windows of `side` x `side` points, around every `stride`-th point of a feature map.
struct Grid {
    u64 height, width, channels, side, stride;

    __device__ u64 rows() const { return (height + stride - 1) / stride; }
    __device__ u64 columns() const { return (width + stride - 1) / stride; }
};

template <typename T> __device__ void neighbourhoods(const T *x, T *y, u64 count, Grid grid) {
    u64 image = grid.height * grid.width * grid.channels, window = grid.side * grid.side * grid.channels;
    EACH(i, count / image * grid.rows() * grid.columns() * window) {
        u64 point = i / window, place = i % window, channel = place % grid.channels, cell = place / grid.channels;
        u64 column = point % grid.columns(), row = point / grid.columns() % grid.rows(), number = point / grid.columns() / grid.rows();
        // Above the top and left of the left edge, these wrap around to very large values.
        u64 from_row = row * grid.stride + cell / grid.side - grid.side / 2;
        u64 from_column = column * grid.stride + cell % grid.side - grid.side / 2;
        bool inside = from_row < grid.height && from_column < grid.width;
        u64 from = number * image + (from_row * grid.width + from_column) * grid.channels + channel;
        y[i] = inside ? x[from] : narrow<T>(0.0f);
    }
}

// Sums the gradients of all windows that contain a point (col2im).
template <typename T> __device__ void neighbourhoods_backward(const T *dy, T *dx, u64 count, Grid grid) {
    u64 image = grid.height * grid.width * grid.channels, window = grid.side * grid.side * grid.channels;
    u64 points = grid.rows() * grid.columns();
    EACH(i, count / (points * window) * image) {
        u64 number = i / image, channel = i % grid.channels, place = i % image / grid.channels;
        u64 row = place / grid.width + grid.side / 2, column = place % grid.width + grid.side / 2;
        float sum = 0;
        for (u64 line = row % grid.stride; line < grid.side && line <= row; line += grid.stride) {
            u64 to_row = (row - line) / grid.stride;
            if (to_row >= grid.rows()) continue;
            for (u64 cell = column % grid.stride; cell < grid.side && cell <= column; cell += grid.stride) {
                u64 to_column = (column - cell) / grid.stride;
                if (to_column >= grid.columns()) continue;
                u64 point = number * points + to_row * grid.columns() + to_column;
                sum += wide(dy[point * window + (line * grid.side + cell) * grid.channels + channel]);
            }
        }
        dx[i] = narrow<T>(sum);
    }
}

// Row kernels: a warp per row (grid-stride), a lane per 32nd value of the row.

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

// The dropout mask of attention probabilities. Rows are in the order [image, query, head], random bits in the order [image, head, query].
// For every 16 keys, the low halves of 8 words decide the first 8 keys and the high halves the other 8.
struct Mask {
    u64 queries, heads, key;
    u32 threshold;
    float factor;

    __device__ u64 first_word(u64 row, u64 keys) const {
        u64 image = row / (queries * heads), query = row / heads % queries, head = row % heads;
        return ((image * heads + head) * queries + query) * ((keys + 15) / 16 * 8);
    }

    __device__ float at(u64 first_word, u64 column) const {
        if (threshold == 0) return factor;
        u64 bits = random_bits(key, first_word + column / 16 * 8 + column % 8);
        u32 chance = column % 16 < 8 ? (u32)bits : (u32)(bits >> 32);
        return chance < threshold ? 0.0f : factor;
    }
};

// The maximum of a row of scaled logits, and the sum of `exp(logit - maximum)`.
struct Exponentials {
    float most, sum;
};

template <typename T> __device__ Exponentials exponentials_of(const T *x, u64 width, float scale) {
    float most = __uint_as_float(0xff800000); // minus infinity
    EACH_COLUMN(i, width) { most = fmaxf(most, wide(x[i]) * scale); }
    most = warp_max(most);
    float sum = 0;
    EACH_COLUMN(i, width) { sum += expf(wide(x[i]) * scale - most); }
    return {most, warp_sum(sum)};
}

// A row of up to `PARTS * 256` logits in the registers of a warp; the number of logits is a multiple of 16. Of a block of 16, a lane holds
// 4 logits of the first half and the 4 of the second half that share their random words of the mask.
template <int PARTS> struct Row {
    float at[PARTS][8];
    u64 width;

    // The block of 16 that the lane holds a part of, and the offset in that block.
    __device__ u64 block(int part) const { return part * 16 + threadIdx.x % 32 / 2; }
    __device__ static u64 within() { return threadIdx.x % 2 * 4; }
    __device__ bool has(int part) const { return block(part) * 16 < width; }

    template <typename T> __device__ Row(const T *x, u64 width, float scale, float otherwise) : width(width) {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            Four<T> low, high;
            if (has(part)) {
                const T *from = x + block(part) * 16 + within();
                low = *(const Four<T> *)from;
                high = *(const Four<T> *)(from + 8);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                at[part][i] = has(part) ? wide(low.at[i]) * scale : otherwise;
                at[part][i + 4] = has(part) ? wide(high.at[i]) * scale : otherwise;
            }
        }
    }

    template <typename T> __device__ void write(T *y) const {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if (!has(part)) continue;
            Four<T> low, high;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                low.at[i] = narrow<T>(at[part][i]);
                high.at[i] = narrow<T>(at[part][i + 4]);
            }
            T *to = y + block(part) * 16 + within();
            *(Four<T> *)to = low;
            *(Four<T> *)(to + 8) = high;
        }
    }

    // Converts logits to probabilities, in place.
    __device__ void softmax() {
        float most = at[0][0];
#pragma unroll
        for (int i = 0; i < PARTS * 8; ++i) most = fmaxf(most, at[i / 8][i % 8]);
        most = warp_max(most);
        float sum = 0;
#pragma unroll
        for (int i = 0; i < PARTS * 8; ++i) {
            at[i / 8][i % 8] = __expf(at[i / 8][i % 8] - most);
            sum += at[i / 8][i % 8];
        }
        float share = 1.0f / warp_sum(sum);
#pragma unroll
        for (int i = 0; i < PARTS * 8; ++i) at[i / 8][i % 8] *= share;
    }

    __device__ void drop(const Mask &mask, u64 first_word) {
        if (mask.threshold == 0) return;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                u64 bits = random_bits(mask.key, first_word + block(part) * 8 + within() + i);
                at[part][i] *= (u32)bits < mask.threshold ? 0.0f : mask.factor;
                at[part][i + 4] *= (u32)(bits >> 32) < mask.threshold ? 0.0f : mask.factor;
            }
        }
    }
};

template <int PARTS, typename T> __device__ void softmax_dropout_of(const float *x, T *y, u64 n, u64 width, float scale, Mask mask) {
    EACH_ROW(number, n / width) {
        Row<PARTS> row(x + number * width, width, scale, __uint_as_float(0xff800000));
        row.softmax();
        row.drop(mask, mask.first_word(number, width));
        row.write(y + number * width);
    }
}

// `y = softmax(scale * x) * mask`; logits are always float
template <typename T> __device__ void softmax_dropout(const float *x, T *y, u64 n, u64 width, float scale, Mask mask) {
    EACH_ROW(row, n / width) {
        const float *from = x + row * width;
        Exponentials all = exponentials_of(from, width, scale);
        u64 word = mask.first_word(row, width);
        EACH_COLUMN(i, width) {
            float probability = expf(from[i] * scale - all.most) / all.sum;
            y[row * width + i] = narrow<T>(probability * mask.at(word, i));
        }
    }
}

template <int PARTS, typename T>
__device__ void softmax_dropout_backward_of(const float *x, const T *dy, T *dx, u64 n, u64 width, float scale, Mask mask) {
    EACH_ROW(number, n / width) {
        Row<PARTS> row(x + number * width, width, scale, __uint_as_float(0xff800000));
        row.softmax();
        Row<PARTS> gradient(dy + number * width, width, 1.0f, 0.0f);
        gradient.drop(mask, mask.first_word(number, width));
        float dot = 0;
#pragma unroll
        for (int i = 0; i < PARTS * 8; ++i) dot += row.at[i / 8][i % 8] * gradient.at[i / 8][i % 8];
        dot = warp_sum(dot);
#pragma unroll
        for (int i = 0; i < PARTS * 8; ++i) row.at[i / 8][i % 8] *= scale * (gradient.at[i / 8][i % 8] - dot);
        row.write(dx + number * width);
    }
}

// Recomputes the probabilities and the mask.
template <typename T>
__device__ void softmax_dropout_backward(const float *x, const T *dy, T *dx, u64 n, u64 width, float scale, Mask mask) {
    EACH_ROW(row, n / width) {
        u64 start = row * width;
        Exponentials all = exponentials_of(x + start, width, scale);
        u64 word = mask.first_word(row, width);
        float dot = 0;
        EACH_COLUMN(i, width) {
            float probability = expf(x[start + i] * scale - all.most) / all.sum;
            dot += probability * wide(dy[start + i]) * mask.at(word, i);
        }
        dot = warp_sum(dot);
        EACH_COLUMN(i, width) {
            float probability = expf(x[start + i] * scale - all.most) / all.sum;
            dx[start + i] = narrow<T>(scale * probability * (wide(dy[start + i]) * mask.at(word, i) - dot));
        }
    }
}

template <typename T> __device__ void softmax(const T *x, T *y, u64 n, u64 width) {
    EACH_ROW(row, n / width) {
        const T *from = x + row * width;
        Exponentials all = exponentials_of(from, width, 1.0f);
        EACH_COLUMN(i, width) { y[row * width + i] = narrow<T>(expf(wide(from[i]) - all.most) / all.sum); }
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

// Column sums of each chunk of rows: `sums` is `[chunks, width]`. A warp sums 32 columns of a chunk.
template <typename T, typename S> __device__ void column_sums(const T *x, S *sums, u64 n, u64 width, u64 chunks) {
    u64 rows = n / width, groups = (width + 31) / 32, length = (rows + chunks - 1) / chunks;
    EACH_ROW(task, groups * chunks) {
        u64 column = task % groups * 32 + threadIdx.x % 32, chunk = task / groups;
        if (column >= width) continue;
        u64 end = (chunk + 1) * length < rows ? (chunk + 1) * length : rows;
        float sum = 0;
        for (u64 row = chunk * length; row < end; ++row) sum += wide(x[row * width + column]);
        sums[chunk * width + column] = narrow<S>(sum);
    }
}

// The mean of a row and the reciprocal of its standard deviation.
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

// Partial sums, per warp, of the gradients of gamma and beta: `sums` is `[warps, 2, width]`. A lane accumulates `COLUMNS` of its columns
// at a time, in registers.
template <int COLUMNS, typename T>
__device__ void layer_norm_weights(const T *x, const T *dy, float *sums, u64 n, u64 width, float epsilon) {
    u64 warp = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    for (u64 first = threadIdx.x % 32; first < width + threadIdx.x % 32; first += 32 * COLUMNS) {
        float gammas[COLUMNS] = {}, betas[COLUMNS] = {};
        EACH_ROW(row, n / width) {
            u64 start = row * width;
            Norm norm = norm_of(x + start, width, epsilon);
#pragma unroll
            for (int k = 0; k < COLUMNS; ++k) {
                u64 i = first + 32 * k;
                if (i >= width) continue;
                float g = wide(dy[start + i]);
                gammas[k] += g * (wide(x[start + i]) - norm.mean) * norm.scale;
                betas[k] += g;
            }
        }
#pragma unroll
        for (int k = 0; k < COLUMNS; ++k) {
            u64 i = first + 32 * k;
            if (i >= width) continue;
            sums[warp * 2 * width + i] = gammas[k];
            sums[warp * 2 * width + width + i] = betas[k];
        }
    }
}

#define SOFTMAX_DROPOUT(forward, backward, PARTS, T, suffix)                                                               \
    extern "C" __global__ void softmax_dropout_##suffix(const float *x, T *y, u64 n, u64 width, float scale, u64 queries,  \
                                                        u64 heads, u64 key, u32 threshold, float factor) {                 \
        forward<PARTS>(x, y, n, width, scale, Mask{queries, heads, key, threshold, factor});                               \
    }                                                                                                                      \
    extern "C" __global__ void softmax_dropout_backward_##suffix(const float *x, const T *dy, T *dx, u64 n, u64 width,     \
                                                                 float scale, u64 queries, u64 heads, u64 key,             \
                                                                 u32 threshold, float factor) {                            \
        backward<PARTS>(x, dy, dx, n, width, scale, Mask{queries, heads, key, threshold, factor});                         \
    }

#define FOR_BOTH_TYPES(T, suffix)                                                                                          \
    extern "C" __global__ void dropout_##suffix(const T *x, T *y, u64 n, u64 key, u64 threshold, float scale) {            \
        dropout<T>(x, y, n, key, threshold, scale);                                                                        \
    }                                                                                                                      \
    extern "C" __global__ void add_dropout_##suffix(const T *x, const T *branch, T *y, u64 n, u64 key, u64 threshold,      \
                                                    float scale) {                                                         \
        add_dropout<T>(x, branch, y, n, key, threshold, scale);                                                            \
    }                                                                                                                      \
    extern "C" __global__ void gelu_##suffix(const T *x, T *y, u64 n) { gelu<T>(x, y, n); }                                \
    extern "C" __global__ void gelu_backward_##suffix(const T *x, const T *dy, T *dx, u64 n) {                             \
        gelu_backward<T>(x, dy, dx, n);                                                                                    \
    }                                                                                                                      \
    extern "C" __global__ void add_bias_##suffix(const T *x, const T *bias, T *y, u64 n, u64 width) {                      \
        add_bias<T>(x, bias, y, n, width);                                                                                 \
    }                                                                                                                      \
    extern "C" __global__ void add_biased_dropout_##suffix(const T *x, const T *branch, const T *bias, T *y, u64 n,        \
                                                           u64 width, u64 key, u64 threshold, float scale) {               \
        add_biased_dropout<T>(x, branch, bias, y, n, width, key, threshold, scale);                                        \
    }                                                                                                                      \
    extern "C" __global__ void bias_gelu_##suffix(const T *x, const T *bias, T *y, u64 n, u64 width) {                     \
        bias_gelu<T>(x, bias, y, n, width);                                                                                \
    }                                                                                                                      \
    extern "C" __global__ void bias_gelu_backward_##suffix(const T *x, const T *bias, const T *dy, T *dx, u64 n,           \
                                                           u64 width) {                                                    \
        bias_gelu_backward<T>(x, bias, dy, dx, n, width);                                                                  \
    }                                                                                                                      \
    extern "C" __global__ void repeat_##suffix(const T *x, T *y, u64 width, u64 n) { repeat<T>(x, y, width, n); }          \
    extern "C" __global__ void with_ones_##suffix(const T *x, T *y, u64 count, u64 width, u64 padded) {                    \
        with_column<T>(x, nullptr, y, count, width, padded);                                                               \
    }                                                                                                                      \
    extern "C" __global__ void with_column_##suffix(const T *x, const T *bias, T *y, u64 count, u64 width, u64 padded) {   \
        with_column<T>(x, bias, y, count, width, padded);                                                                  \
    }                                                                                                                      \
    extern "C" __global__ void without_ones_##suffix(const T *x, T *y, u64 count, u64 width, u64 padded) {                 \
        without_ones<T>(x, y, count, width, padded);                                                                       \
    }                                                                                                                      \
    extern "C" __global__ void neighbourhoods_##suffix(const T *x, T *y, u64 count, u64 height, u64 width, u64 channels,   \
                                                       u64 side, u64 stride) {                                             \
        neighbourhoods<T>(x, y, count, Grid{height, width, channels, side, stride});                                       \
    }                                                                                                                      \
    extern "C" __global__ void neighbourhoods_backward_##suffix(const T *dy, T *dx, u64 count, u64 height, u64 width,      \
                                                                u64 channels, u64 side, u64 stride) {                      \
        neighbourhoods_backward<T>(dy, dx, count, Grid{height, width, channels, side, stride});                            \
    }                                                                                                                      \
    extern "C" __global__ void column_sums_##suffix(const T *x, float *sums, u64 n, u64 width, u64 chunks) {               \
        column_sums(x, sums, n, width, chunks);                                                                            \
    }                                                                                                                      \
    extern "C" __global__ void column_sums_to_bf16_##suffix(const T *x, bf16 *sums, u64 n, u64 width, u64 chunks) {        \
        column_sums(x, sums, n, width, chunks);                                                                            \
    }                                                                                                                      \
    SOFTMAX_DROPOUT(softmax_dropout, softmax_dropout_backward, , T, suffix)                                                \
    SOFTMAX_DROPOUT(softmax_dropout_of, softmax_dropout_backward_of, 1, T, 256_##suffix)                                   \
    SOFTMAX_DROPOUT(softmax_dropout_of, softmax_dropout_backward_of, 4, T, 1024_##suffix)                                  \
    extern "C" __global__ void softmax_##suffix(const T *x, T *y, u64 n, u64 width) { softmax<T>(x, y, n, width); }        \
    extern "C" __global__ void softmax_backward_##suffix(const T *y, const T *dy, T *dx, u64 n, u64 width) {               \
        softmax_backward<T>(y, dy, dx, n, width);                                                                          \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_##suffix(const T *x, const T *gamma, const T *beta, T *y, u64 n, u64 width,      \
                                                   float epsilon) {                                                        \
        layer_norm<T>(x, gamma, beta, y, n, width, epsilon);                                                               \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_backward_##suffix(const T *x, const T *gamma, const T *dy, T *dx, u64 n,         \
                                                            u64 width, float epsilon) {                                    \
        layer_norm_backward<T>(x, gamma, dy, dx, n, width, epsilon);                                                       \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_weights_##suffix(const T *x, const T *dy, float *sums, u64 n, u64 width,         \
                                                           float epsilon) {                                                \
        layer_norm_weights<8>(x, dy, sums, n, width, epsilon);                                                             \
    }

FOR_BOTH_TYPES(float, f32)
FOR_BOTH_TYPES(bf16, bf16)

// Multi-tensor kernels: one launch for all parameters of a model. A block processes one chunk of a parameter at a time (grid-stride).

struct Parameter {
    float *values, *first, *second;
    const float *gradient;
    u64 count, first_chunk;
    float decay, weight_decay; // decay: decoupled, applied before the update; weight_decay: part of LAMB's update
};

struct Chunk {
    u32 parameter, index;
};

#define EACH_CHUNK(number, p, i, end)                                                                                      \
    for (u64 number = blockIdx.x; number < chunks; number += gridDim.x)                                                    \
        if (const Parameter &p = parameters[chunk[number].parameter]; true)                                                \
            if (u64 i = chunk[number].index * length, end = i + length < p.count ? i + length : p.count; true)

#define EACH_VALUE(i, end) for (i += threadIdx.x; i < end; i += blockDim.x)

// The factor for gradients (clipping), 1 if there is none.
__device__ inline float factor_of(const float *factor) { return factor ? *factor : 1.0f; }

// One step of Adam; see `adam.rs`.
extern "C" __global__ void adam_steps(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length, const float *factor,
                                      float first_rate, float second_rate, float step_size, float epsilon) {
    float scale = factor_of(factor);
    EACH_CHUNK(number, p, i, end) {
        EACH_VALUE(i, end) {
            float g = p.gradient[i] * scale, value = p.values[i];
            float m = p.first[i] + (g - p.first[i]) * first_rate;
            float v = p.second[i] + (g * g - p.second[i]) * second_rate;
            p.first[i] = m;
            p.second[i] = v;
            p.values[i] = value - value * p.decay - m * step_size / (sqrtf(v) + epsilon);
        }
    }
}

struct Lamb {
    float first_rate, second_rate, first_correction, second_correction, epsilon, learning_rate;
};

__device__ inline float lamb_update(const Parameter &p, u64 i, Lamb step) {
    float spread = sqrtf(p.second[i] * step.second_correction) + step.epsilon;
    return p.first[i] * step.first_correction / spread + p.weight_decay * p.values[i];
}

// The first half of a LAMB step (see `lamb.rs`): decays the parameters and updates the moments. `sums` gets, for each warp of each chunk,
// the sums of squares of the parameters and of their updates.
extern "C" __global__ void lamb_moments(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length, const float *factor,
                                        float *sums, float first_rate, float second_rate, float first_correction,
                                        float second_correction, float epsilon, float learning_rate) {
    Lamb step = {first_rate, second_rate, first_correction, second_correction, epsilon, learning_rate};
    float scale = factor_of(factor);
    EACH_CHUNK(number, p, i, end) {
        float own = 0, updates = 0;
        EACH_VALUE(i, end) {
            float g = p.gradient[i] * scale;
            p.values[i] -= p.values[i] * p.decay;
            p.first[i] += (g - p.first[i]) * first_rate;
            p.second[i] += (g * g - p.second[i]) * second_rate;
            float update = lamb_update(p, i, step);
            own += p.values[i] * p.values[i];
            updates += update * update;
        }
        own = warp_sum(own);
        updates = warp_sum(updates);
        if (threadIdx.x % 32 == 0) {
            u64 warp = number * (blockDim.x / 32) + threadIdx.x / 32;
            sums[2 * warp] = own;
            sums[2 * warp + 1] = updates;
        }
    }
}

// The second half of a LAMB step: applies the updates, scaled by the trust ratio of each parameter.
extern "C" __global__ void lamb_changes(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length, const float *sums,
                                        float first_rate, float second_rate, float first_correction, float second_correction,
                                        float epsilon, float learning_rate) {
    Lamb step = {first_rate, second_rate, first_correction, second_correction, epsilon, learning_rate};
    EACH_CHUNK(number, p, i, end) {
        u64 warps = blockDim.x / 32, first = p.first_chunk * warps, last = first + (p.count + length - 1) / length * warps;
        float own = 0, updates = 0;
        for (u64 warp = first + threadIdx.x % 32; warp < last; warp += 32) {
            own += sums[2 * warp];
            updates += sums[2 * warp + 1];
        }
        own = warp_sum(own);
        updates = warp_sum(updates);
        float ratio = own > 0 && updates > 0 ? sqrtf(own / updates) : 1.0f;
        EACH_VALUE(i, end) { p.values[i] -= ratio * learning_rate * lamb_update(p, i, step); }
    }
}

// Sums of squares of gradients, for each warp of each chunk.
extern "C" __global__ void squares(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length, float *sums) {
    EACH_CHUNK(number, p, i, end) {
        float sum = 0;
        EACH_VALUE(i, end) { sum += p.gradient[i] * p.gradient[i]; }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) sums[number * (blockDim.x / 32) + threadIdx.x / 32] = sum;
    }
}

// Adds tensors to others of the same shape, in place.
#define ADD_ALL(T, suffix)                                                                                                  \
    extern "C" __global__ void add_all_##suffix(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length) { \
        EACH_CHUNK(number, p, i, end) {                                                                                     \
            T *values = (T *)p.values;                                                                                      \
            const T *shares = (const T *)p.gradient;                                                                        \
            EACH_VALUE(i, end) { values[i] = narrow<T>(wide(values[i]) + wide(shares[i])); }                                \
        }                                                                                                                   \
    }

ADD_ALL(float, f32)
ADD_ALL(bf16, bf16)

// Converts the float buffers in `gradient` to bfloat16 in `values` (`narrow_all`), and bfloat16 to float (`widen_all`).
extern "C" __global__ void narrow_all(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length) {
    EACH_CHUNK(number, p, i, end) {
        EACH_VALUE(i, end) { ((bf16 *)p.values)[i] = narrow<bf16>(p.gradient[i]); }
    }
}

extern "C" __global__ void widen_all(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length) {
    EACH_CHUNK(number, p, i, end) {
        EACH_VALUE(i, end) { p.values[i] = wide(((const bf16 *)p.gradient)[i]); }
    }
}

// Exponential moving averages: moves each value towards the buffer in `gradient` by a fraction `rate`.
extern "C" __global__ void move_means(const Parameter *parameters, const Chunk *chunk, u64 chunks, u64 length, float rate) {
    EACH_CHUNK(number, p, i, end) {
        EACH_VALUE(i, end) { p.values[i] += (p.gradient[i] - p.values[i]) * rate; }
    }
}
