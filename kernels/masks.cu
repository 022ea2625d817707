// Masks straight onto a picture: every kernel writes rows of a network's input and stores no mask.
//
//     out = image * mask                            where `baseline` is a null pointer, which stands for all zeros
//     out = (image - baseline) * mask + baseline    elsewhere; `learned` adds its noise to that
//
// What kernels/rise.py, window.py, segments.py, rank.py and engine/learned.py draw, then kernels/blend.py, in fp32 and
// rounded once, to nearest even, to the output's type. No multiply-add is fused (build with --fmad=false, on the host with
// -ffp-contract=off): numpy fuses none, and the memory is what takes the time.
//
// Kernels: <kind>_f32, <kind>_f16, <kind>_bf16. Arguments of all, in this order:
//
//     const float *image       (C, H, W), or (H, W, C) if channels_last
//     const float *baseline    the same shape, or null for all zeros
//     OUT *out                 (count, C, H, W) or (count, H, W, C): float, IEEE half or bfloat16; any alignment its type has
//     int first                row 0 of `out` shows the picture through mask `first` of the plan
//     int count                rows written; none after them is touched
//     int channels, height, width, channels_last
//
// then those of the kind:
//
//     rise      const unsigned long long *grids (N, words): grids row by row, cell k is bit k % 64 of word k / 64
//               int words, int grid (1..64), const int *shifts (N, 2): dy, dx, each from 0 and below its cell's side
//     window    const int *tops (rows), int rows, const int *lefts (columns), int columns, int tall, int wide
//     segments  const int *segments (H, W), const unsigned long long *samples (N, words): segment k is bit k % 64 of word
//               k / 64, int words
//     rank      const int *ranks (H, W), const int *counts (N), const unsigned char *inserted (N): 0 or 1
//     learned   const float *masks (pairs, side, sides * side), int side, int sides, int pairs,
//               const float *noise (sides, noises, C, H, W), or H, W, C, or null, int noises: 1 or `pairs`.
//               Row r is side r / pairs of pair r % pairs; image and baseline hold a picture for every row:
//               (sides * pairs, C, H, W), or H, W, C
//
// Launch: blocks of 256 threads, grid (ceil(H * W / (256 * per_thread)), count), per_thread 4 for f32 and 8 for f16 and
// bf16: 16 bytes. Fewer blocks along x work too. No shared memory, no barriers. H * W * C must be below 2^30.
//
// Comments `bound`, `clamp`, `mirror`, `half-pixel` and `alignment` mark what tests/kernel_mutants.py breaks, line by line.

#define BLOCK 256

struct F16 {
    unsigned short bits;
};
struct BF16 {
    unsigned short bits;
};

__device__ inline float rounded(float value, float *) { return value; }

__device__ inline F16 rounded(float value, F16 *)
{
    F16 half;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value)); // cuda_fp16.h would be one more package to build with
#else
    half.bits = host_half(value);
#endif
    return half;
}

__device__ inline BF16 rounded(float value, BF16 *)
{
    BF16 brain; // by hand: sm_75 has no such instruction
    const unsigned word = __float_as_uint(value);
    const unsigned even = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    brain.bits = value == value ? (unsigned short)even : (unsigned short)0x7fffu;
    return brain;
}

template <class T, int N> struct alignas(16) Chunk {
    T values[N];
};

__device__ inline bool aligned(const void *pointer) { return ((size_t)pointer & 15u) == 0; } // alignment

// `count` values of `from`, of N = 4 or 8, by 16 bytes where that can be
template <int N> __device__ inline void load(const float *from, int count, float (&to)[N])
{
    if (count == N && aligned(from)) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const Chunk<float, 4> chunk = *(const Chunk<float, 4> *)(from + i);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                to[i + k] = chunk.values[k];
        }
        return;
    }
#pragma unroll
    for (int k = 0; k < N; ++k)
        to[k] = k < count ? from[k] : 0.0f; // bound
}

template <class Out, int N> __device__ inline void store(Out *to, int count, const float (&from)[N])
{
    Chunk<Out, N> chunk;
#pragma unroll
    for (int k = 0; k < N; ++k)
        chunk.values[k] = rounded(from[k], (Out *)0);
    if (count == N && aligned(to)) {
        *(Chunk<Out, N> *)to = chunk;
        return;
    }
#pragma unroll
    for (int k = 0; k < N; ++k)
        if (k < count) // bound
            to[k] = chunk.values[k];
}

// What one row of the output is made of; every pointer is at that row's own picture
struct Picture {
    const float *image, *baseline, *noise; // noise: null for none
    int channels, height, width, channels_last;
};

// `shown` (N masks) onto `count` values at `at` of the picture, into `out` at the same place
template <class Out, int N>
__device__ inline void blend(const Picture &picture, int at, int count, const float (&shown)[N], Out *out)
{
    float value[N], other[N];
    load(picture.image + at, count, value);
    if (picture.baseline) {
        load(picture.baseline + at, count, other);
#pragma unroll
        for (int k = 0; k < N; ++k)
            value[k] = (value[k] - other[k]) * shown[k] + other[k];
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
            value[k] *= shown[k];
    }
    if (picture.noise) {
        load(picture.noise + at, count, other);
#pragma unroll
        for (int k = 0; k < N; ++k)
            value[k] += other[k];
    }
    store(out + at, count, value);
}

// One row of the output. Each thread takes pixels by N, or values by N where channels are last, and goes on by the width of
// the launch. A mask says what it needs of a row of pixels once, in `row(y)`, and then the value at each `x`.
template <class Out, class Mask> __device__ inline void render(const Picture &picture, Mask mask, Out *out)
{
    constexpr int N = 16 / sizeof(Out);
    const int pixels = picture.height * picture.width, channels = picture.channels;
    const int repeats = picture.channels_last ? channels : 1; // neighbours in memory that share a mask's value
    const int values = pixels * repeats;
    float shown[N];
    for (int at = N * (blockIdx.x * BLOCK + threadIdx.x); at < values; at += N * BLOCK * gridDim.x) { // bound
        const int count = min(N, values - at); // bound
        const int pixel = at / repeats;
        int repeat = at - pixel * repeats, y = pixel / picture.width, x = pixel - y * picture.width;
        mask.row(y);
        float value = mask.at(x);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            shown[k] = value;
            if (k + 1 < count && ++repeat == repeats) { // bound
                repeat = 0;
                if (++x == picture.width) {
                    x = 0;
                    mask.row(++y);
                }
                value = mask.at(x);
            }
        }
        if (picture.channels_last)
            blend(picture, at, count, shown, out);
        else
            for (int channel = 0; channel < channels; ++channel)
                blend(picture, channel * pixels + at, count, shown, out);
    }
}

// A place between samples `low` and `low + 1`: the weights of both
struct Between {
    int low;
    float weight, next;
};

// numerator / denominator, exact but for the last rounding: the remainder is an integer, so large places lose no digits.
// A floor that rounding made one too low gives the weights 0 and 1, the same value.
__device__ inline Between between(int numerator, int denominator)
{
    const float inverse = 1.0f / (float)denominator;
    Between place;
    place.low = (int)floorf((float)numerator * inverse);
    const int rest = numerator - place.low * denominator;
    place.next = (float)rest * inverse;
    place.weight = (float)(denominator - rest) * inverse;
    return place;
}

// RISE: a coarse grid upsampled as kernels/rise.py says (`upsampling`), cropped at a shift
struct Rise {
    const unsigned long long *grids;
    int words, grid;
    const int *shifts;
    int height, width;

    int dy, dx;
    unsigned long long upper, lower; // the two rows of cells around a row of pixels
    Between rows;

    __device__ void begin(int index)
    {
        grids += (size_t)index * words;
        dy = shifts[2 * index];
        dx = shifts[2 * index + 1];
    }

    // Half-pixel centres: (i + 1/2) * grid / total - 1/2, over its denominator, for total = (grid + 1) * cell pixels
    __device__ Between cells(int i, int length) const
    {
        const int total = (grid + 1) * ((length + grid - 1) / grid);
        return between((2 * i + 1) * grid - total, 2 * total); // half-pixel
    }

    // Borders mirrored about the centre of the border cell: -1 is 1
    __device__ int mirrored(int cell) const
    {
        if (cell < 0)
            cell = -cell; // mirror
        if (cell >= grid)
            cell = 2 * (grid - 1) - cell; // mirror
        return max(cell, 0); // clamp: a grid of one cell has no neighbour to mirror
    }

    // A row of up to 64 cells may lie over two words
    __device__ unsigned long long bits(int row) const
    {
        const int start = row * grid, word = start / 64, shift = start % 64;
        unsigned long long found = grids[word] >> shift;
        if (shift + grid > 64) // bound
            found |= grids[word + 1] << (64 - shift);
        return found;
    }

    __device__ void row(int y)
    {
        rows = cells(y + dy, height);
        upper = bits(mirrored(rows.low));
        lower = bits(mirrored(rows.low + 1));
    }

    __device__ float column(int cell) const
    {
        const float above = (upper >> cell) & 1u ? rows.weight : 0.0f;
        return (lower >> cell) & 1u ? above + rows.next : above;
    }

    __device__ float at(int x) const
    {
        const Between columns = cells(x + dx, width);
        return columns.weight * column(mirrored(columns.low)) + columns.next * column(mirrored(columns.low + 1));
    }
};

// A rectangle hidden, on a lattice that may start outside the picture
struct Window {
    const int *tops;
    int rows;
    const int *lefts;
    int columns, tall, wide;

    int top, left;
    bool hides;

    __device__ void begin(int index)
    {
        top = tops[index / columns];
        left = lefts[index % columns];
    }
    __device__ void row(int y) { hides = y >= top && y < top + tall; }
    __device__ float at(int x) const { return hides && x >= left && x < left + wide ? 0.0f : 1.0f; }
};

// Superpixels, each shown or hidden
struct Segments {
    const int *segments;
    const unsigned long long *samples;
    int words, width;

    const int *line;

    __device__ void begin(int index) { samples += (size_t)index * words; }
    __device__ void row(int y) { line = segments + (size_t)y * width; }
    __device__ float at(int x) const { return (samples[line[x] / 64] >> (line[x] % 64)) & 1u ? 1.0f : 0.0f; }
};

// The most salient pixels shown alone, or hidden alone
struct Rank {
    const int *ranks, *counts;
    const unsigned char *inserted;
    int width;

    const int *line;
    int pixels;
    bool shows;

    __device__ void begin(int index)
    {
        pixels = counts[index];
        shows = inserted[index] != 0;
    }
    __device__ void row(int y) { line = ranks + (size_t)y * width; }
    __device__ float at(int x) const { return (line[x] < pixels) == shows ? 1.0f : 0.0f; }
};

// A mask that is being learned, bilinear with corners aligned; two sides are one picture of twice the width
struct Learned {
    const float *masks;
    int side, sides, pairs, height, width;

    int before; // pixels of the sides before this one
    const float *upper, *lower;
    Between rows;

    __device__ void begin(int row)
    {
        masks += (size_t)(row % pairs) * side * sides * side;
        before = row / pairs * width;
    }

    __device__ static Between samples(int i, int length, int count) { return between(i * (count - 1), max(length - 1, 1)); } // clamp

    __device__ void row(int y)
    {
        rows = samples(y, height, side);
        upper = masks + rows.low * sides * side;
        lower = masks + min(rows.low + 1, side - 1) * sides * side; // clamp
    }

    __device__ float column(int cell) const { return rows.weight * upper[cell] + rows.next * lower[cell]; }

    __device__ float at(int x) const
    {
        const Between columns = samples(before + x, sides * width, sides * side);
        const int next = min(columns.low + 1, sides * side - 1); // clamp
        return columns.weight * column(columns.low) + columns.next * column(next);
    }
};

template <class Out, class Mask>
__device__ inline void show(Picture picture, Mask mask, Out *out, int first, int count)
{
    const int row = blockIdx.y;
    if (row >= count) // bound
        return;
    mask.begin(first + row);
    render(picture, mask, out + (size_t)row * picture.channels * picture.height * picture.width);
}

// As `show`, with a picture and noise for every row
template <class Out>
__device__ inline void show(Picture picture, Learned mask, Out *out, int first, int count, int noises)
{
    const int row = first + blockIdx.y;
    const size_t size = (size_t)picture.channels * picture.height * picture.width;
    picture.image += row * size;
    if (picture.baseline)
        picture.baseline += row * size;
    if (picture.noise)
        picture.noise += ((row / mask.pairs) * noises + (noises == 1 ? 0 : row % mask.pairs)) * size;
    show(picture, mask, out, first, count);
}

#define COMMON(OUT)                                                                                                            \
    const float *image, const float *baseline, OUT *out, int first, int count, int channels, int height, int width,            \
        int channels_last
#define KERNEL(NAME) extern "C" __global__ void __launch_bounds__(BLOCK) NAME
#define PICTURE(NOISE) Picture{image, baseline, NOISE, channels, height, width, channels_last}

#define KERNELS(SUFFIX, OUT)                                                                                                   \
    KERNEL(rise_##SUFFIX)                                                                                                      \
    (COMMON(OUT), const unsigned long long *grids, int words, int grid, const int *shifts)                                     \
    {                                                                                                                          \
        show(PICTURE(nullptr), Rise{grids, words, grid, shifts, height, width}, out, first, count);                            \
    }                                                                                                                          \
    KERNEL(window_##SUFFIX)                                                                                                    \
    (COMMON(OUT), const int *tops, int rows, const int *lefts, int columns, int tall, int wide)                                \
    {                                                                                                                          \
        show(PICTURE(nullptr), Window{tops, rows, lefts, columns, tall, wide}, out, first, count);                             \
    }                                                                                                                          \
    KERNEL(segments_##SUFFIX)                                                                                                  \
    (COMMON(OUT), const int *segments, const unsigned long long *samples, int words)                                           \
    {                                                                                                                          \
        show(PICTURE(nullptr), Segments{segments, samples, words, width}, out, first, count);                                  \
    }                                                                                                                          \
    KERNEL(rank_##SUFFIX)                                                                                                      \
    (COMMON(OUT), const int *ranks, const int *counts, const unsigned char *inserted)                                          \
    {                                                                                                                          \
        show(PICTURE(nullptr), Rank{ranks, counts, inserted, width}, out, first, count);                                       \
    }                                                                                                                          \
    KERNEL(learned_##SUFFIX)                                                                                                   \
    (COMMON(OUT), const float *masks, int side, int sides, int pairs, const float *noise, int noises)                          \
    {                                                                                                                          \
        show(PICTURE(noise), Learned{masks, side, sides, pairs, height, width}, out, first, count, noises);                    \
    }

KERNELS(f32, float)
KERNELS(f16, F16)
KERNELS(bf16, BF16)
