// Masks straight onto a picture: every kernel writes rows of a network's input and stores no mask.
//
//     out = image * mask                            where `baseline` is a null pointer, which stands for all zeros
//     out = (image - baseline) * mask + baseline    elsewhere; `learned` adds its noise to that
//
// What kernels/rise.py, window.py, segments.py, rank.py and engine/methods/learned_mask.py draw, then kernels/blend.py, in fp32 and
// rounded once, to nearest even, to the output's type. No multiply-add is fused (build with --fmad=false, on the host with
// -ffp-contract=off): numpy fuses none, and the memory is what takes the time.
//
// Kernels: <kind>_f32, <kind>_f16, <kind>_bf16. Arguments of all, in this order:
//
//     const float *image       (C, H, W), or (H, W, C) if channels_last
//     const float *baseline    the same shape, or null for all zeros
//     OUT *out                 (count, C, H, W) or (count, H, W, C): float, IEEE half or bfloat16; 16 byte stores need no
//                              alignment from the caller: what they cannot write goes value by value
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
// Every `if`, `min`, `max` and `aligned`, and the lines marked `bound`, `mirror`, `half-pixel`, `within`, `nan`, are broken one by one
// by tests/kernel_mutants.py, which must see a test fail.

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
    BF16 brain;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(brain.bits) : "f"(value));
#else
    const unsigned word = __float_as_uint(value);
    const unsigned even = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    brain.bits = value == value ? (unsigned short)even : (unsigned short)0x7fffu; // nan
#endif
    return brain;
}

template <class T, int N> struct alignas(sizeof(T) * N) Chunk {
    T values[N];
};

__device__ inline bool aligned(const void *pointer) { return ((size_t)pointer & 15u) == 0; }

// N values of `from`, by 16 bytes where N is more than one
template <int N> __device__ inline void load(const float *from, float (&to)[N])
{
    constexpr int WIDE = N < 4 ? N : 4;
#pragma unroll
    for (int i = 0; i < N; i += WIDE) {
        const Chunk<float, WIDE> chunk = *(const Chunk<float, WIDE> *)(from + i);
#pragma unroll
        for (int k = 0; k < WIDE; ++k)
            to[i + k] = chunk.values[k];
    }
}

// What one row of the output is made of; every pointer is at that row's own picture
struct Picture {
    const float *image, *baseline, *noise; // noise: null for none
    int channels, height, width, channels_last;
};

// `shown`, the masks' values, onto as many values at `at` of the picture, into `out` at the same place
template <class Out, int N> __device__ inline void blend(const Picture &picture, int at, const float (&shown)[N], Out *out)
{
    float value[N], other[N];
    load(picture.image + at, value);
    if (picture.baseline) {
        load(picture.baseline + at, other);
#pragma unroll
        for (int k = 0; k < N; ++k)
            value[k] = (value[k] - other[k]) * shown[k] + other[k];
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
            value[k] *= shown[k];
    }
    if (picture.noise) {
        load(picture.noise + at, other);
#pragma unroll
        for (int k = 0; k < N; ++k)
            value[k] += other[k];
    }
    Chunk<Out, N> chunk;
#pragma unroll
    for (int k = 0; k < N; ++k)
        chunk.values[k] = rounded(value[k], (Out *)0);
    *(Chunk<Out, N> *)(out + at) = chunk;
}

// One row of the output, N values of memory at once: N pixels of a channel, or, where channels are last, of fewer pixels.
// All are of one row of pixels. Threads go on by the width of the launch. A mask is told the row of pixels, in `row(y)`, and
// then gives the value `at(x)`.
template <int N, class Out, class Mask> __device__ inline void render(const Picture &picture, Mask &mask, Out *out)
{
    const int repeats = picture.channels_last ? picture.channels : 1; // neighbours in memory that share a mask's value
    const int planes = picture.channels_last ? 1 : picture.channels;
    const int values = picture.height * picture.width * repeats; // of a plane
#pragma unroll 1 // the compiler's own choice makes code four times as long, and spills
    for (int at = N * (blockIdx.x * BLOCK + threadIdx.x); at < values; at += N * BLOCK * gridDim.x) { // bound
        const int pixel = at / repeats, y = pixel / picture.width;
        int repeat = at - pixel * repeats, x = pixel - y * picture.width;
        mask.row(y);
        float shown[N];
        float value = mask.at(x);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (repeat == repeats) {
                repeat = 0;
                value = mask.at(++x);
            }
            shown[k] = value;
            ++repeat;
        }
#pragma unroll 1
        for (int plane = 0; plane < planes; ++plane)
            blend(picture, plane * values + at, shown, out);
    }
}

// By 16 bytes of output where rows of pixels are whole numbers of those and every pointer allows it, else value by value
template <class Out, class Mask> __device__ inline void render(const Picture &picture, Mask &mask, Out *out)
{
    constexpr int N = 16 / sizeof(Out);
    const bool whole = picture.width * (picture.channels_last ? picture.channels : 1) % N == 0;
    const bool fits = aligned(out) && aligned(picture.image) && aligned(picture.baseline) && aligned(picture.noise);
    if (whole && fits) // speed
        render<N>(picture, mask, out);
    else
        render<1>(picture, mask, out);
}

// A place between samples `low` and `low + 1`: the weights of both
struct Between {
    int low;
    float weight, next;
};

// Places are fractions of one denominator. The remainder is an integer, so that far places lose no digits; a floor that
// rounding made one too low gives the weights 0 and 1, the same value.
struct Axis {
    int denominator;
    float inverse;

    __device__ void begin(int places)
    {
        denominator = places;
        inverse = 1.0f / (float)places;
    }

    __device__ Between between(int numerator) const
    {
        Between place;
        place.low = (int)floorf((float)numerator * inverse);
        const int rest = numerator - place.low * denominator;
        place.next = (float)rest * inverse;
        place.weight = 1.0f - place.next;
        return place;
    }
};

// RISE: a coarse grid upsampled as kernels/rise.py says (`upsampling`), cropped at a shift
struct Rise {
    const unsigned long long *grids;
    int words, grid;
    const int *shifts;
    int height, width;

    int dy, dx;
    unsigned long long upper, lower; // the two rows of cells around a row of pixels
    Between rows;
    Axis down, across;

    __device__ void begin(int index)
    {
        grids += (size_t)index * words;
        dy = shifts[2 * index];
        dx = shifts[2 * index + 1];
        down.begin(2 * upsampled(height));
        across.begin(2 * upsampled(width));
    }

    // Pixels of the whole upsampled grid: one cell more than the picture takes, for the shift
    __device__ int upsampled(int length) const { return (grid + 1) * ((length + grid - 1) / grid); }

    // Half-pixel centres: (i + 1/2) * grid / upsampled - 1/2, over the axis' denominator of 2 * upsampled
    __device__ Between cells(const Axis &axis, int i) const
    {
        const int centre = 2 * i + 1, half = axis.denominator / 2; // half-pixel
        return axis.between(centre * grid - half);
    }

    // Borders mirrored about the centre of the border cell: -1 is 1, and `grid` is grid - 2; a single cell is its own mirror
    __device__ int mirrored(int cell) const
    {
        const int inside = abs(cell); // mirror
        const int folded = min(inside, 2 * (grid - 1) - inside);
        return max(folded, 0);
    }

    // A row of up to 64 cells may lie over two words
    __device__ unsigned long long bits(int row) const
    {
        const int start = row * grid, word = start / 64, shift = start % 64;
        unsigned long long found = grids[word] >> shift;
        if (shift + grid > 64)
            found |= grids[word + 1] << (64 - shift);
        return found;
    }

    __device__ void row(int y)
    {
        rows = cells(down, y + dy);
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
        const Between columns = cells(across, x + dx);
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
    __device__ void row(int y) { hides = y >= top && y < top + tall; } // within
    __device__ float at(int x) const { return hides && x >= left && x < left + wide ? 0.0f : 1.0f; } // within
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
    Axis down, across;

    __device__ void begin(int row)
    {
        down.begin(max(height - 1, 1));
        across.begin(max(sides * width - 1, 1));
        masks += (size_t)(row % pairs) * side * sides * side;
        before = row / pairs * width;
    }

    __device__ void row(int y)
    {
        rows = down.between(y * (side - 1));
        upper = masks + rows.low * sides * side;
        lower = masks + min(rows.low + 1, side - 1) * sides * side;
    }

    __device__ float column(int cell) const { return rows.weight * upper[cell] + rows.next * lower[cell]; }

    __device__ float at(int x) const
    {
        const Between columns = across.between((before + x) * (sides * side - 1));
        const int next = min(columns.low + 1, sides * side - 1);
        return columns.weight * column(columns.low) + columns.next * column(next);
    }
};

template <class Out, class Mask>
__device__ inline void show(Picture picture, Mask mask, Out *out, int first, int count)
{
    const int row = blockIdx.y;
    if (row >= count)
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

#define KERNEL(NAME, OUT, ...)                                                                                        \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                               \
        NAME(const float *image, const float *baseline, OUT *out, int first, int count, int channels, int height,     \
             int width, int channels_last, __VA_ARGS__)
#define PICTURE(NOISE) Picture{image, baseline, NOISE, channels, height, width, channels_last}

#define KERNELS(SUFFIX, OUT)                                                                                          \
    KERNEL(rise_##SUFFIX, OUT, const unsigned long long *grids, int words, int grid, const int *shifts)               \
    {                                                                                                                 \
        show(PICTURE(nullptr), Rise{grids, words, grid, shifts, height, width}, out, first, count);                   \
    }                                                                                                                 \
    KERNEL(window_##SUFFIX, OUT, const int *tops, int rows, const int *lefts, int columns, int tall, int wide)        \
    {                                                                                                                 \
        show(PICTURE(nullptr), Window{tops, rows, lefts, columns, tall, wide}, out, first, count);                    \
    }                                                                                                                 \
    KERNEL(segments_##SUFFIX, OUT, const int *segments, const unsigned long long *samples, int words)                 \
    {                                                                                                                 \
        show(PICTURE(nullptr), Segments{segments, samples, words, width}, out, first, count);                         \
    }                                                                                                                 \
    KERNEL(rank_##SUFFIX, OUT, const int *ranks, const int *counts, const unsigned char *inserted)                    \
    {                                                                                                                 \
        show(PICTURE(nullptr), Rank{ranks, counts, inserted, width}, out, first, count);                              \
    }                                                                                                                 \
    KERNEL(learned_##SUFFIX, OUT, const float *masks, int side, int sides, int pairs, const float *noise, int noises) \
    {                                                                                                                 \
        show(PICTURE(noise), Learned{masks, side, sides, pairs, height, width}, out, first, count, noises);           \
    }

KERNELS(f32, float)
KERNELS(f16, F16)
KERNELS(bf16, BF16)
