// Average pooling whose kernel is its stride, and its gradient.
//
// A thread has eight channels of one voxel of the grid that it writes, the small one for the mean, the large one for
// the gradient: blockIdx.x and threadIdx.x count octets [voxel][groups] of a sample, blockIdx.y is the sample.
//
// Bytes per element of bf16 of the large grid, s voxels of it to a small one: 2 + 2 / s for the mean, 4 + 2 / s for the
// gradient, which is added.
#include "device.cuh"

struct PoolArgs {
    const void* from;
    void* to;
    u32 groups;
    u32 large[3];  // z, y, x
    u32 small[3];
    u32 stride[3];
};

namespace pool {

constexpr u32 kThreads = 256;

struct Voxel {
    u32 z, y, x, group;
};

// The voxel of octet `index`; false beyond the last.
DEVICE bool find(const u32 (&size)[3], u32 groups, u64 index, Voxel& to) {
    const u64 voxel = index / groups;
    to.group = static_cast<u32>(index % groups);
    if (voxel >= static_cast<u64>(size[0]) * size[1] * size[2]) return false;
    const u32 row = static_cast<u32>(voxel / size[2]);
    to.x = static_cast<u32>(voxel % size[2]);
    to.y = row % size[1];
    to.z = row / size[1];
    return true;
}

DEVICE u64 offset(const u32 (&size)[3], u32 groups, u32 z, u32 y, u32 x, u32 group) {
    const u64 row = (static_cast<u64>(blockIdx.y) * size[0] + z) * size[1] + y;
    return ((row * size[2] + x) * groups + group) * 8;
}

DEVICE float share(const PoolArgs& args) {
    return 1.0f / static_cast<float>(args.stride[0] * args.stride[1] * args.stride[2]);
}

template <typename T>
DEVICE void average(const PoolArgs& args) {
    const u64 index = static_cast<u64>(blockIdx.x) * kThreads + threadIdx.x;
    Voxel to;
    if (!find(args.small, args.groups, index, to)) return;
    const T* from = static_cast<const T*>(args.from);
    const u64 row = static_cast<u64>(args.large[2]) * args.groups * 8, plane = row * args.large[1];
    const u32 z = to.z * args.stride[0], y = to.y * args.stride[1], x = to.x * args.stride[2];
    from += offset(args.large, args.groups, z, y, x, to.group);
    float sum[8] = {};
    for (u32 dz = 0; dz < args.stride[0]; dz++) {
        for (u32 dy = 0; dy < args.stride[1]; dy++) {
            for (u32 dx = 0; dx < args.stride[2]; dx++) {
                float v[8];
                load8(v, from + dz * plane + dy * row + dx * 8 * args.groups);
                UNROLL for (u32 c = 0; c < 8; c++) sum[c] += v[c];
            }
        }
    }
    const float factor = share(args);
    UNROLL for (u32 c = 0; c < 8; c++) sum[c] *= factor;
    store8(static_cast<T*>(args.to) + offset(args.small, args.groups, to.z, to.y, to.x, to.group), sum);
}

template <typename T>
DEVICE void spread(const PoolArgs& args) {
    const u64 index = static_cast<u64>(blockIdx.x) * kThreads + threadIdx.x;
    Voxel to;
    if (!find(args.large, args.groups, index, to)) return;
    const u32 z = to.z / args.stride[0], y = to.y / args.stride[1], x = to.x / args.stride[2];
    T* at = static_cast<T*>(args.to) + offset(args.large, args.groups, to.z, to.y, to.x, to.group);
    float v[8], sum[8];
    load8(v, static_cast<const T*>(args.from) + offset(args.small, args.groups, z, y, x, to.group));
    load8(sum, at);
    const float factor = share(args);
    UNROLL for (u32 c = 0; c < 8; c++) sum[c] += v[c] * factor;
    store8(at, sum);
}

}  // namespace pool

KERNEL_RESIDENT(pool_average_bf16, pool::kThreads, 3, PoolArgs) { pool::average<bf16>(args); }
KERNEL_RESIDENT(pool_average_f32, pool::kThreads, 3, PoolArgs) { pool::average<float>(args); }
KERNEL(pool_spread_bf16, pool::kThreads, PoolArgs) { pool::spread<bf16>(args); }
KERNEL(pool_spread_f32, pool::kThreads, PoolArgs) { pool::spread<float>(args); }
