// Just enough CUDA to compile kernels/masks.cu with a C++ compiler and run it on the CPU, one thread after another.
// The kernels have no barriers and share no memory, so a plain loop over blocks and threads gives the same results. The
// shim has no __syncthreads on purpose: a kernel that starts to use one no longer compiles here.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __launch_bounds__(threads)

struct Dimensions {
    unsigned x, y, z;
};
static thread_local Dimensions blockIdx, threadIdx, gridDim, blockDim;

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
using std::abs;

// Runs a kernel over a packed argument buffer, laid out as a CUDA driver takes it: each argument at its own alignment
template <class... Args>
static void run(void (*kernel)(Args...), const unsigned *grid, const unsigned *block, const void *buffer, size_t bytes)
{
    std::tuple<std::decay_t<Args>...> arguments;
    size_t offset = 0;
    std::apply(
        [&](auto &...argument) {
            ((offset = (offset + alignof(decltype(+argument)) - 1) / sizeof argument * sizeof argument,
              offset + sizeof argument <= bytes
                  ? (void)std::memcpy(&argument, (const char *)buffer + offset, sizeof argument)
                  : (void)0,
              offset += sizeof argument),
             ...);
        },
        arguments);
    if (offset != bytes) {
        std::fprintf(stderr, "host shim: argument buffer of %zu bytes, the kernel takes %zu\n", bytes, offset);
        std::abort();
    }
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x)
                for (unsigned thread = 0; thread < block[0]; ++thread) { // blocks here have one dimension
                    blockIdx = {x, y, z};
                    threadIdx = {thread, 0, 0};
                    std::apply(kernel, arguments);
                }
}
