// What the simulated device functions (device.h) stand on: where the running thread is, barriers, warp operations,
// copies behind a thread's back, kernels by name. A block runs on one thread of the machine; each of its threads is a
// fiber that runs until it must wait for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sim {

struct Index3 {
    uint32_t x, y, z;
};

// A place in a source file.
struct Site {
    const char* file;
    uint32_t line;
};

// The values of the running thread. Set anew whenever another thread goes on.
struct Running {
    Index3 thread, block, block_extent, grid;
    uint32_t lane;
    unsigned char* exchange;  // of the warp: inputs, then outputs, of its 32 lanes
    unsigned char* shared;    // the block's dynamic shared memory
};
extern __thread Running running;

constexpr size_t exchange_inputs = 32 * 48, exchange_outputs = 32 * 16;

// Ends the launch with a message; the thread does not go on.
[[noreturn]] void fail(Site site, const char* format, ...) __attribute__((format(printf, 2, 3)));

void block_barrier(Site site);

// The running thread takes part in an operation of its warp. True for the last lane, which then carries it out and
// calls `leave`; false, once that has happened, for the others.
bool arrive(const char* operation, Site site);
void leave();

// All 32 lanes put in a value; the last computes what all get, from all.
template <class In, class Out, class Execute>
Out collective(const char* operation, Site site, const In& in, Execute execute) {
    static_assert(sizeof(In) * 32 <= exchange_inputs && sizeof(Out) * 32 <= exchange_outputs);
    In* inputs = reinterpret_cast<In*>(running.exchange);
    Out* outputs = reinterpret_cast<Out*>(running.exchange + exchange_inputs);
    inputs[running.lane] = in;
    if (arrive(operation, site)) {
        execute(inputs, outputs);
        leave();
    }
    return outputs[running.lane];
}

// Ends the launch if 16 bytes are not where they must be.
void check_global(const void* pointer, const char* operation, Site site);
void check_shared(const void* pointer, const char* operation, Site site);
void copy_async(void* to_shared, const void* data);
void copy_commit();
void copy_wait(uint32_t pending);

#if SIM_RACES
// Accesses that the compiler does not see in the kernel.
void note_read(const void* at, size_t bytes);
void note_write(const void* at, size_t bytes);
// All lanes of the warp have met: what they wrote is seen by all.
void warp_synchronised();
#else
inline void note_read(const void*, size_t) {}
inline void note_write(const void*, size_t) {}
inline void warp_synchronised() {}
#endif

struct RowAddress {
    const void* row;
};
struct Words4 {
    uint32_t word[4];
};
struct MultiplyAdd {
    float d[4];
    uint32_t a[4], b[2];
};
struct Floats4 {
    float value[4];
};
void load_matrices(const RowAddress* rows, Words4* words, bool transposed);
void multiply_add_lanes(const MultiplyAdd* lanes, Floats4* sums);

inline void check_aligned(const void* pointer, const char* operation, Site site) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0)
        fail(site, "%s: address %p is not aligned to 16 bytes", operation, pointer);
}

// A kernel by name; made before main.
struct Kernel {
    const char* name;
    uint32_t threads;
    size_t argument_bytes;
    void (*run)(const void* arguments);
    Site site;
    // The file's static shared arrays, as they lie in the program; every thread of the machine has its own.
    const unsigned char *shared_begin, *shared_end;
    Kernel* next;

    Kernel(const char* name, uint32_t threads, size_t argument_bytes, void (*run)(const void*), Site site,
           const unsigned char* shared_begin, const unsigned char* shared_end);
};

}  // namespace sim
