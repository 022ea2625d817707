// Exports every kernel of kernels/masks.cu for ctypes: host_<kernel>(grid[3], block[3], packed arguments, their bytes).
#include "cuda_host.hpp"

#ifndef SOURCE
#define SOURCE "../../kernels/masks.cu"
#endif
#include SOURCE

#define EXPORT(kernel)                                                                                                \
    extern "C" void host_##kernel(const unsigned *grid, const unsigned *block, const void *buffer, size_t bytes)      \
    {                                                                                                                 \
        run(&kernel, grid, block, buffer, bytes);                                                                     \
    }

EXPORT(rise)
EXPORT(window)
EXPORT(segments)
EXPORT(rank)
