// Kernels that do one device function each, to hold it against its definition.
#include "device.cuh"

// One warp: lane l puts its four values of `words`, taken as rows of 8 × 8 matrices of 16-bit elements, through the
// function.
struct ProbeWords {
    const u32* from;
    u32* to;
};

KERNEL(probe_load_matrix4, 32, ProbeWords) {
    u32* shared = reinterpret_cast<u32*>(shared_memory());
    for (u32 i = 0; i < 4; i++) shared[threadIdx.x * 4 + i] = args.from[threadIdx.x * 4 + i];
    barrier();
    u32 words[4];
    load_matrix4(words, shared + threadIdx.x * 4);
    for (u32 i = 0; i < 4; i++) args.to[threadIdx.x * 4 + i] = words[i];
}
