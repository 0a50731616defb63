// Between arrays as files and the host have them, float [sample][channel][voxel], and activations,
// [sample][voxel][pitch].
//
// A thread has eight channels of one voxel: blockIdx.x and threadIdx.x give the voxel, blockIdx.y the channels,
// blockIdx.z the sample. Neighbouring threads read (or write) neighbouring voxels of each channel; on the other side
// a thread has the 16 or 32 bytes of its eight channels. So all of a sector is used either way, and no exchange
// between threads is needed. Every byte is touched once.
#include "device.cuh"

struct TensorArgs {
    const void* from;
    void* to;
    u32 voxels;
    u32 channels;
};

namespace tensor {

constexpr u32 kThreads = 256;

// Where a thread's part begins in [sample][channel][voxel], and in [sample][voxel][pitch].
struct Place {
    u32 voxel;
    u32 channel;
    u64 plane;
    u64 octet;
};

DEVICE Place place(const TensorArgs& args) {
    Place p;
    p.voxel = blockIdx.x * kThreads + threadIdx.x;
    p.channel = 8 * blockIdx.y;
    p.plane = (static_cast<u64>(blockIdx.z) * args.channels + p.channel) * args.voxels + p.voxel;
    p.octet = ((static_cast<u64>(blockIdx.z) * args.voxels + p.voxel) * gridDim.y + blockIdx.y) * 8;
    return p;
}

template <typename T>
DEVICE void to_octets(const TensorArgs& args) {
    const Place p = place(args);
    if (p.voxel >= args.voxels) return;
    const float* from = static_cast<const float*>(args.from) + p.plane;
    float v[8];
    UNROLL for (u32 c = 0; c < 8; c++) {
        v[c] = p.channel + c < args.channels ? from[static_cast<u64>(c) * args.voxels] : 0.0f;
    }
    store8(static_cast<T*>(args.to) + p.octet, v);
}

template <typename T>
DEVICE void to_planes(const TensorArgs& args) {
    const Place p = place(args);
    if (p.voxel >= args.voxels) return;
    float* to = static_cast<float*>(args.to) + p.plane;
    float v[8];
    load8(v, static_cast<const T*>(args.from) + p.octet);
    UNROLL for (u32 c = 0; c < 8; c++) {
        if (p.channel + c < args.channels) to[static_cast<u64>(c) * args.voxels] = v[c];
    }
}

}  // namespace tensor

KERNEL(tensor_import_bf16, tensor::kThreads, TensorArgs) { tensor::to_octets<bf16>(args); }
KERNEL(tensor_import_f32, tensor::kThreads, TensorArgs) { tensor::to_octets<float>(args); }
KERNEL(tensor_export_bf16, tensor::kThreads, TensorArgs) { tensor::to_planes<bf16>(args); }
KERNEL(tensor_export_f32, tensor::kThreads, TensorArgs) { tensor::to_planes<float>(args); }
