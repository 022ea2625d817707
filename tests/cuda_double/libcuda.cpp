// A TEST DOUBLE of NVIDIA's driver library, so that unmodified pycuda runs without a GPU. It executes the kernels on the CPU,
// compiled by tests/cuda_host, and never the machine code that it is given. It says nothing about a device's speed, and keeps
// only those rules of a driver that programs often break:
//
//   - a thread without a context can do nothing; contexts are a stack per thread
//   - copies and fills beyond an allocation are refused; new memory is full of 0xff (NaNs)
//   - a stream does nothing until somebody waits for it, so a missing event or synchronisation gives wrong numbers
//   - everything that is allocated or copied is counted: see `double_counts`
//
// Environment: CUDA_DOUBLE_DEVICES (1), CUDA_DOUBLE_MEMORY (bytes, 2^32), CUDA_DOUBLE_NO_FATBIN (set: no code for this device)
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
};

using Pointer = unsigned long long;
using Kernel = void (*)(const unsigned *grid, const unsigned *block, const void *arguments, size_t bytes);

struct Stream {
    std::deque<std::function<void()>> queue;
    unsigned long asked = 0, done = 0;

    void ask(std::function<void()> work)
    {
        queue.push_back(std::move(work));
        ++asked;
    }
    void run_until(unsigned long count)
    {
        while (done < count) {
            queue.front()();
            queue.pop_front();
            ++done;
        }
    }
};

struct Event {
    Stream *stream = nullptr; // null: never recorded, counts as happened
    unsigned long after = 0;
};

std::recursive_mutex everything;
bool initialised;
long retained, pushed, modules, launches, copies_in, copies_out;
std::map<Pointer, size_t> memory;
std::map<Stream *, std::unique_ptr<Stream>> streams;
std::map<Event *, std::unique_ptr<Event>> events;
thread_local std::vector<void *> contexts;
int primary; // its address is the primary context

long setting(const char *name, long otherwise)
{
    const char *text = std::getenv(name);
    return text ? std::atol(text) : otherwise;
}

bool current() { return initialised && !contexts.empty() && contexts.back(); }

bool inside(Pointer at, size_t bytes)
{
    auto next = memory.upper_bound(at);
    if (next == memory.begin())
        return false;
    const auto &[start, size] = *std::prev(next);
    return at + bytes <= start + size;
}

void wait_for(const Event &event)
{
    if (event.stream && streams.count(event.stream))
        event.stream->run_until(event.after);
}

void wait_for_all()
{
    for (auto &[stream, owner] : streams)
        stream->run_until(stream->asked);
}

// Work of a stream on memory that is freed before it runs is a fault in any driver
void require(bool fine, const char *what)
{
    if (!fine) {
        std::fprintf(stderr, "cuda double: %s\n", what);
        std::abort();
    }
}

void ask(Stream *stream, Pointer at, size_t bytes, std::function<void()> work)
{
    stream->ask([=] {
        require(inside(at, bytes), "a stream was asked to use memory that was freed before it was waited for");
        work();
    });
}

} // namespace

#define API extern "C" __attribute__((visibility("default"))) int
#define LOCK std::lock_guard<std::recursive_mutex> lock(everything)
#define CONTEXT                                                                                                                \
    LOCK;                                                                                                                      \
    if (!current())                                                                                                            \
        return initialised ? INVALID_CONTEXT : NOT_INITIALIZED
#define STREAM                                                                                                                 \
    CONTEXT;                                                                                                                   \
    if (!streams.count(stream))                                                                                                \
    return INVALID_HANDLE

// What is still held: allocations, streams, events, modules, contexts pushed, contexts retained; then what was done: launches,
// copies from the host, copies to the host
extern "C" __attribute__((visibility("default"))) void double_counts(long *out)
{
    LOCK;
    const long counts[] = {(long)memory.size(), (long)streams.size(), (long)events.size(), modules, pushed,
                           retained,            launches,             copies_in,           copies_out};
    std::memcpy(out, counts, sizeof counts);
}

API cuGetErrorString(int error, const char **text)
{
    static thread_local char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%s (%d) from the test double", error == OUT_OF_MEMORY ? "out of memory" : "error", error);
    *text = buffer;
    return SUCCESS;
}

API cuInit(unsigned)
{
    if (setting("CUDA_DOUBLE_DEVICES", 1) == 0)
        return NO_DEVICE;
    initialised = true;
    return SUCCESS;
}

API cuGetExportTable(const void **table, const void *)
{
    *table = nullptr;
    return NOT_FOUND; // NVRTC asks for one if there is a driver, but does not need it
}

API cuDriverGetVersion(int *version)
{
    *version = 13000;
    return SUCCESS;
}

API cuDeviceGetCount(int *count)
{
    *count = (int)setting("CUDA_DOUBLE_DEVICES", 1);
    return initialised ? SUCCESS : NOT_INITIALIZED;
}

API cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal >= 0 && ordinal < setting("CUDA_DOUBLE_DEVICES", 1) ? SUCCESS : INVALID_DEVICE;
}

API cuDeviceGetName(char *name, int size, int)
{
    std::snprintf(name, size, "test double (no GPU)");
    return SUCCESS;
}

API cuDeviceComputeCapability(int *major, int *minor, int)
{
    *major = 8, *minor = 6;
    return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t *bytes, int)
{
    *bytes = setting("CUDA_DOUBLE_MEMORY", 1L << 32);
    return SUCCESS;
}

API cuDeviceGetAttribute(int *value, int, int)
{
    *value = 1;
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void **context, int)
{
    LOCK;
    ++retained;
    *context = &primary;
    return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int)
{
    LOCK;
    return retained > 0 ? (--retained, SUCCESS) : INVALID_CONTEXT;
}

API cuCtxPushCurrent_v2(void *context)
{
    LOCK;
    contexts.push_back(context);
    ++pushed;
    return SUCCESS;
}

API cuCtxPopCurrent_v2(void **context)
{
    LOCK;
    if (contexts.empty())
        return INVALID_CONTEXT;
    *context = contexts.back();
    contexts.pop_back();
    --pushed;
    return SUCCESS;
}

API cuCtxGetDevice(int *device)
{
    CONTEXT;
    *device = 0;
    return SUCCESS;
}

API cuCtxGetApiVersion(void *, unsigned *version)
{
    *version = 13000;
    return SUCCESS;
}

API cuCtxSynchronize()
{
    CONTEXT;
    wait_for_all();
    return SUCCESS;
}

API cuStreamCreate(Stream **stream, unsigned)
{
    CONTEXT;
    auto made = std::make_unique<Stream>();
    *stream = made.get();
    streams[*stream] = std::move(made);
    return SUCCESS;
}

API cuStreamDestroy_v2(Stream *stream)
{
    STREAM;
    stream->run_until(stream->asked);
    streams.erase(stream);
    return SUCCESS;
}

API cuStreamSynchronize(Stream *stream)
{
    STREAM;
    stream->run_until(stream->asked);
    return SUCCESS;
}

API cuStreamWaitEvent(Stream *stream, Event *event, unsigned)
{
    STREAM;
    wait_for(*event); // earlier than a driver must wait, but a driver may do so
    return SUCCESS;
}

API cuEventCreate(Event **event, unsigned)
{
    CONTEXT;
    auto made = std::make_unique<Event>();
    *event = made.get();
    events[*event] = std::move(made);
    return SUCCESS;
}

API cuEventDestroy_v2(Event *event)
{
    CONTEXT;
    return events.erase(event) ? SUCCESS : INVALID_HANDLE;
}

API cuEventRecord(Event *event, Stream *stream)
{
    STREAM;
    *event = {stream, stream->asked};
    return SUCCESS;
}

API cuEventSynchronize(Event *event)
{
    CONTEXT;
    wait_for(*event);
    return SUCCESS;
}

API cuMemGetInfo_v2(size_t *free, size_t *total)
{
    CONTEXT;
    size_t used = 0;
    for (const auto &[start, size] : memory)
        used += size;
    *total = setting("CUDA_DOUBLE_MEMORY", 1L << 32);
    *free = *total > used ? *total - used : 0;
    return SUCCESS;
}

API cuMemAlloc_v2(Pointer *at, size_t bytes)
{
    CONTEXT;
    size_t free = 0, total = 0;
    cuMemGetInfo_v2(&free, &total);
    void *made = nullptr;
    if (bytes == 0)
        return INVALID_VALUE;
    if (bytes > free || posix_memalign(&made, 256, bytes))
        return OUT_OF_MEMORY;
    std::memset(made, 0xff, bytes);
    *at = (Pointer)made;
    memory[*at] = bytes;
    return SUCCESS;
}

API cuMemFree_v2(Pointer at)
{
    CONTEXT;
    wait_for_all();
    if (!memory.erase(at))
        return INVALID_VALUE;
    std::free((void *)at);
    return SUCCESS;
}

API cuMemcpyHtoD_v2(Pointer to, const void *from, size_t bytes)
{
    CONTEXT;
    if (!inside(to, bytes))
        return INVALID_VALUE;
    wait_for_all();
    std::memcpy((void *)to, from, bytes);
    ++copies_in;
    return SUCCESS;
}

API cuMemcpyDtoH_v2(void *to, Pointer from, size_t bytes)
{
    CONTEXT;
    if (!inside(from, bytes))
        return INVALID_VALUE;
    wait_for_all();
    std::memcpy(to, (const void *)from, bytes);
    ++copies_out;
    return SUCCESS;
}

API cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Stream *stream)
{
    STREAM;
    if (!inside(to, bytes))
        return INVALID_VALUE;
    std::vector<char> staged((const char *)from, (const char *)from + bytes); // pageable memory is staged
    ask(stream, to, bytes, [=] { std::memcpy((void *)to, staged.data(), bytes); });
    ++copies_in;
    return SUCCESS;
}

API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Stream *stream)
{
    STREAM;
    if (!inside(to, bytes) || !inside(from, bytes))
        return INVALID_VALUE;
    ask(stream, to, bytes, [=] {
        require(inside(from, bytes), "a copy's source was freed before its stream was waited for");
        std::memcpy((void *)to, (const void *)from, bytes);
    });
    return SUCCESS;
}

API cuMemsetD8Async(Pointer at, unsigned char value, size_t bytes, Stream *stream)
{
    STREAM;
    if (!inside(at, bytes))
        return INVALID_VALUE;
    ask(stream, at, bytes, [=] { std::memset((void *)at, value, bytes); });
    return SUCCESS;
}

API cuModuleLoadDataEx(void **module, const void *image, unsigned, int *, void **)
{
    CONTEXT;
    const bool fatbin = std::memcmp(image, "\x50\xed\x55\xba", 4) == 0, cubin = std::memcmp(image, "\177ELF", 4) == 0;
    if (fatbin && std::getenv("CUDA_DOUBLE_NO_FATBIN"))
        return NO_BINARY_FOR_GPU;
    const auto *bytes = (const unsigned char *)image;
    if (!fatbin && !(cubin && (bytes[18] | bytes[19] << 8) == 190)) // EM_CUDA
        return INVALID_IMAGE;
    ++modules;
    *module = &modules;
    return SUCCESS;
}

API cuModuleUnload(void *)
{
    CONTEXT;
    wait_for_all();
    --modules;
    return SUCCESS;
}

API cuModuleGetFunction(void **function, void *, const char *name)
{
    CONTEXT;
    *function = dlsym(RTLD_DEFAULT, (std::string("host_") + name).c_str());
    if (!*function) { // RTLD_DEFAULT does not search libraries that were loaded for one other library only
        static void *self = dlopen("libcuda.so.1", RTLD_NOW);
        *function = dlsym(self, (std::string("host_") + name).c_str());
    }
    return *function ? SUCCESS : NOT_FOUND;
}

API cuFuncGetAttribute(int *value, int, void *)
{
    *value = 0;
    return SUCCESS;
}

API cuFuncSetBlockShape(void *, int, int, int)
{
    CONTEXT;
    return SUCCESS; // pycuda sets it here, and again at the launch
}

API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   Stream *stream, void **parameters, void **extra)
{
    STREAM;
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx * by * bz > 1024 || parameters || !extra)
        return INVALID_VALUE;
    const char *buffer = nullptr;
    size_t bytes = 0;
    for (; extra[0]; extra += 2) {
        if (extra[0] == (void *)1)
            buffer = (const char *)extra[1];
        else if (extra[0] == (void *)2)
            bytes = *(size_t *)extra[1];
    }
    std::vector<char> arguments(buffer, buffer + bytes);
    stream->ask([=] {
        const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        ((Kernel)function)(grid, block, arguments.data(), arguments.size());
    });
    ++launches;
    return SUCCESS;
}
