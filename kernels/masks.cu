// Draws masks straight onto a picture: every kernel writes rows of a network's input, and no mask is stored.
//
//     out = picture * mask                            if `baseline` is a null pointer, which stands for all zeros
//     out = (picture - baseline) * mask + baseline    otherwise
//
// Each kernel draws the masks of the numpy renderer of the same name (kernels/rise.py, window.py, segments.py, rank.py) and
// shows the picture through them as kernels/blend.py does, in fp32. No multiply-add is fused, because numpy fuses none:
// build with --fmad=false, on the host with -ffp-contract=off. That costs little: most of the time goes to memory.
//
// Kernels: rise, window, segments, rank. All take these arguments first, in this order:
//
//     const float *picture     (C, H, W), or (H, W, C) if channels_last
//     const float *baseline    the same shape, or null for all zeros
//     float *out               (count, C, H, W) or (count, H, W, C). No pointer has to be aligned to 16 bytes; if one is
//                              not, the kernel reads and writes value by value
//     int first                row 0 of `out` shows the picture through mask `first` of the plan
//     int count                rows to write; rows after them are not touched
//     int channels, height, width, channels_last
//
// then those of their own:
//
//     rise      const unsigned long long *grids (N, words): grids row by row, cell k is bit k % 64 of word k / 64
//               int words, int grid (1..64), const int *shifts (N, 2): dy, dx, each at least 0 and less than the cell's side
//     window    const int *tops (rows), int rows, const int *lefts (columns), int columns, int tall, int wide
//     segments  const int *segments (H, W), const unsigned long long *samples (N, words): segment k is bit k % 64 of word
//               k / 64, int words
//     rank      const int *ranks (H, W), const int *counts (N), const unsigned char *inserted (N): 0 or 1
//
// Launch: blocks of 256 threads, grid (ceil(H * W / 1024), count), since a thread writes 4 values, 16 bytes, at once. Fewer
// blocks along x work too. No shared memory, no barriers. H * W * C must be below 2^30.
//
// tests/kernel_mutants.py breaks every `if`, `min`, `max` and `aligned`, and the lines marked `bound`, `mirror`,
// `half-pixel` and `within`, one at a time; a test must fail each time.

#define BLOCK 256

template <int N> struct alignas(sizeof(float) * N) Chunk {
    float values[N];
};

__device__ inline bool aligned(const void *pointer) { return ((size_t)pointer & 15u) == 0; }

// What the rows of the output are made of; `baseline` may be null
struct Picture {
    const float *values, *baseline;
    int channels, height, width, channels_last;
};

// Shows N values of the picture, from `at` on, through as many values of the mask; writes them to the same place of `out`
template <int N> __device__ inline void blend(const Picture &picture, int at, const float (&mask)[N], float *out)
{
    Chunk<N> chunk = *(const Chunk<N> *)(picture.values + at);
    if (picture.baseline) {
        const Chunk<N> baseline = *(const Chunk<N> *)(picture.baseline + at);
#pragma unroll
        for (int k = 0; k < N; ++k)
            chunk.values[k] = (chunk.values[k] - baseline.values[k]) * mask[k] + baseline.values[k];
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
            chunk.values[k] *= mask[k];
    }
    *(Chunk<N> *)(out + at) = chunk;
}

// Writes one row of the output, N values that are neighbours in memory at a time: N pixels of one channel or, if channels
// are last, fewer pixels with all their channels. The N values belong to one row of pixels. A thread then moves on by the
// width of the launch. `mask.row(y)` selects a row of pixels; after that `mask.at(x)` gives the mask's value in column x.
template <int N, class Mask> __device__ inline void render(const Picture &picture, Mask &mask, float *out)
{
    const int repeats = picture.channels_last ? picture.channels : 1; // neighbours in memory that share a value of the mask
    const int planes = picture.channels_last ? 1 : picture.channels;
    const int values = picture.height * picture.width * repeats; // of a plane
#pragma unroll 1 // the compiler would unroll to code four times as long, which spills
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

// Four values at a time if a row of pixels is a multiple of four values and every pointer is aligned, else value by value
template <class Mask> __device__ inline void render(const Picture &picture, Mask &mask, float *out)
{
    const bool whole = picture.width * (picture.channels_last ? picture.channels : 1) % 4 == 0;
    const bool fits = aligned(out) && aligned(picture.values) && aligned(picture.baseline);
    if (whole && fits) // speed
        render<4>(picture, mask, out);
    else
        render<1>(picture, mask, out);
}

// A place between the samples `low` and `low + 1`, with the weights of both
struct Between {
    int low;
    float weight, next;
};

// Places are fractions with one denominator. The remainder is an integer, so places far out keep all their digits. If
// rounding makes the floor one too low, the weights become 0 and 1, which gives the same value.
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

// RISE: a coarse grid upsampled as in kernels/rise.py (`upsampling`) and cropped at a shift
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

    // Pixels of the whole upsampled grid: one cell more than the picture needs, for the shift
    __device__ int upsampled(int length) const { return (grid + 1) * ((length + grid - 1) / grid); }

    // Half-pixel centres: (i + 1/2) * grid / upsampled - 1/2, as a fraction with the axis' denominator, 2 * upsampled
    __device__ Between cells(const Axis &axis, int i) const
    {
        const int centre = 2 * i + 1, half = axis.denominator / 2; // half-pixel
        return axis.between(centre * grid - half);
    }

    // Borders are mirrored about the centre of the border cell: -1 becomes 1, and `grid` becomes grid - 2. A single cell is
    // its own mirror.
    __device__ int mirrored(int cell) const
    {
        const int inside = abs(cell); // mirror
        const int folded = min(inside, 2 * (grid - 1) - inside);
        return max(folded, 0);
    }

    // A row of up to 64 cells may lie in two words
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

// One rectangle is hidden, on a lattice that may start outside the picture
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

// Superpixels: each is shown or hidden
struct Segments {
    const int *segments;
    const unsigned long long *samples;
    int words, width;

    const int *line;

    __device__ void begin(int index) { samples += (size_t)index * words; }
    __device__ void row(int y) { line = segments + (size_t)y * width; }
    __device__ float at(int x) const { return (samples[line[x] / 64] >> (line[x] % 64)) & 1u ? 1.0f : 0.0f; }
};

// Only the most salient pixels are shown, or only they are hidden
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

template <class Mask> __device__ inline void show(Picture picture, Mask mask, float *out, int first, int count)
{
    const int row = blockIdx.y;
    if (row >= count)
        return;
    mask.begin(first + row);
    render(picture, mask, out + (size_t)row * picture.channels * picture.height * picture.width);
}

#define KERNEL(NAME, ...)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                               \
        NAME(const float *picture, const float *baseline, float *out, int first, int count, int channels, int height, \
             int width, int channels_last, __VA_ARGS__)
#define PICTURE Picture{picture, baseline, channels, height, width, channels_last}

KERNEL(rise, const unsigned long long *grids, int words, int grid, const int *shifts)
{
    show(PICTURE, Rise{grids, words, grid, shifts, height, width}, out, first, count);
}

KERNEL(window, const int *tops, int rows, const int *lefts, int columns, int tall, int wide)
{
    show(PICTURE, Window{tops, rows, lefts, columns, tall, wide}, out, first, count);
}

KERNEL(segments, const int *segments, const unsigned long long *samples, int words)
{
    show(PICTURE, Segments{segments, samples, words, width}, out, first, count);
}

KERNEL(rank, const int *ranks, const int *counts, const unsigned char *inserted)
{
    show(PICTURE, Rank{ranks, counts, inserted, width}, out, first, count);
}
