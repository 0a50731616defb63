// Prediction of whole volumes: cuts tiles out of the image, adds up what the network says of them, and decides.
//
// The image and the sums are planes, float [channel][z][y][x]; the network's input and logits are its own tensors,
// [sample][z][y][x][pitch]. A view is a tile and a flip. Views of a batch are found by a cursor in memory, so that all
// batches are the same work and can be recorded; those beyond the last are not there: zeros in, nothing added.
//
// Blocks and threads: a thread has one voxel (blockIdx.x and threadIdx.x) of a patch, of the part of a patch that lies
// in the image, of the image or of the grid that is wanted. Neighbouring threads have neighbours along x, so that planes
// are read and written in whole sectors; of a tensor a thread has the 16 or 32 bytes of eight channels at a time.
//
// Sums: one thread adds the views of a voxel in their order, so that bytes do not depend on the batch or the card.
// Products and sums are rounded one by one, as on the CPU, which decides between classes that tie:
// nvrtc: --fmad=false
#include "device.cuh"

// Where a view lies: the first voxel of its part of the image, and one bit for each axis (z first) that is flipped.
struct WindowView {
    u32 first[3];
    u32 flips;
};

struct WindowCutArgs {
    const float* image;
    const WindowView* views;
    const u32* cursor;  // the batch's first view
    void* to;
    u32 view_count;
    u32 channels;
    u32 image_size[3];
    u32 patch[3];
    u32 before[3];  // voxels of a patch ahead of its part of the image
    u32 extent[3];  // of that part
};

struct WindowAddArgs {
    const float* logits;  // [sample][patch][pitch]
    const WindowView* views;
    const u32* cursor;
    const double* curves;  // the Gaussian along z, y, x, one behind the other
    float* sums;           // [channel][z][y][x]
    float* weights;        // [z][y][x]
    u32 view_count;
    u32 first_sample;  // samples of the batch that show one tile
    u32 samples;
    u32 channels;
    u32 activation;
    float smallest;  // the weight where the Gaussian is 0
    u32 image_size[3];
    u32 patch[3];
    u32 before[3];
    u32 extent[3];
};

struct WindowNextArgs {
    u32* cursor;
    u32 batch;
    u32 unused;
};

struct WindowMeansArgs {
    float* sums;  // turned into means
    const float* weights;
    u32* finite;  // 0 if some mean is not
    u32 voxels;
    u32 channels;
};

// One target voxel of an axis: weights[0] value[at[0]] + weights[1] value[at[1]].
struct WindowTap {
    double weights[2];
    u32 at[2];
};

// Per axis, in the order in which they are interpolated.
struct WindowClassesArgs {
    const float* maps;  // [output][z][y][x]
    const WindowTap* taps[3];
    const i32* region_classes;  // per output, where a threshold decides
    i16* classes;
    u32 voxels;  // of a map
    u32 outputs;
    u32 target_voxels;
    u32 rule;
    u32 stride[3];         // of the axis in a map
    u32 target_stride[3];  // and in the target
    u32 target_size[3];
    float threshold;
};

namespace window {

constexpr u32 kThreads = 256;
// Samples of a tile: all flips of three axes.
constexpr u32 kSamples = 8;
constexpr u32 kMinusInfinity = 0xff800000u;
enum Activation : u32 { kNone, kSoftmax, kSigmoid };
enum Rule : u32 { kLargest, kAbove };

// z, y, x of a voxel of a box.
struct Place {
    u32 at[3];

    DEVICE Place(u32 index, const u32 (&size)[3]) {
        at[2] = index % size[2];
        at[1] = index / size[2] % size[1];
        at[0] = index / size[2] / size[1];
    }
};

DEVICE u64 index_in(const u32 (&at)[3], const u32 (&size)[3]) {
    return (static_cast<u64>(at[0]) * size[1] + at[1]) * size[2] + at[2];
}

DEVICE u32 flipped(const WindowView& view, u32 axis, u32 at, u32 size) {
    return (view.flips >> axis & 1) != 0 ? size - 1 - at : at;
}

// blockIdx.y: eight channels, blockIdx.z: the sample.
template <typename T>
DEVICE void cut(const WindowCutArgs& args) {
    const u32 voxels = args.patch[0] * args.patch[1] * args.patch[2];
    const u32 voxel = blockIdx.x * kThreads + threadIdx.x;
    if (voxel >= voxels) return;
    const u32 index = *args.cursor + blockIdx.z, channel = 8 * blockIdx.y;
    bool inside = index < args.view_count;
    u64 from = 0, plane = 1;
    if (inside) {
        const WindowView view = args.views[index];
        const Place place(voxel, args.patch);
        u32 at[3];
        UNROLL for (u32 axis = 0; axis < 3; axis++) {
            // Below 0 it wraps beyond the extent.
            const u32 part = flipped(view, axis, place.at[axis], args.patch[axis]) - args.before[axis];
            inside = inside && part < args.extent[axis];
            at[axis] = view.first[axis] + part;
            plane *= args.image_size[axis];
        }
        from = index_in(at, args.image_size);
    }
    float v[8];
    UNROLL for (u32 c = 0; c < 8; c++) {
        v[c] = inside && channel + c < args.channels ? args.image[(channel + c) * plane + from] : 0.0f;
    }
    const u64 octet = (static_cast<u64>(blockIdx.z) * voxels + voxel) * gridDim.y + blockIdx.y;
    store8(static_cast<T*>(args.to) + 8 * octet, v);
}

// The largest logit of a voxel, and the sum of exp(logit - largest).
struct Softmax {
    float largest;
    float sum;

    DEVICE Softmax(const float* logits, u32 channels) {
        largest = bits_float(kMinusInfinity);
        sum = 0.0f;
        float z[8];
        for (u32 channel = 0; channel < channels; channel += 8) {
            load8(z, logits + channel);
            UNROLL for (u32 c = 0; c < 8; c++) {
                if (channel + c < channels) largest = fmaxf(largest, z[c]);
            }
        }
        for (u32 channel = 0; channel < channels; channel += 8) {
            load8(z, logits + channel);
            UNROLL for (u32 c = 0; c < 8; c++) {
                if (channel + c < channels) sum += expf(z[c] - largest);
            }
        }
    }
};

}  // namespace window

KERNEL(window_cut_bf16, window::kThreads, WindowCutArgs) { window::cut<bf16>(args); }
KERNEL(window_cut_f32, window::kThreads, WindowCutArgs) { window::cut<float>(args); }

// The samples of one tile to the sums. What the softmax needs to know of a sample waits in shared memory, for the
// thread that put it there.
KERNEL(window_add, window::kThreads, WindowAddArgs) {
    using namespace window;
    __shared__ float largest[kSamples][kThreads], total[kSamples][kThreads];
    const u32 index = blockIdx.x * kThreads + threadIdx.x;
    if (index >= args.extent[0] * args.extent[1] * args.extent[2]) return;
    const u32 begin = *args.cursor + args.first_sample;
    if (begin >= args.view_count) return;
    const u32 left = args.view_count - begin;
    const u32 samples = left < args.samples ? left : args.samples;

    const Place part(index, args.extent);
    u32 tile[3], at[3];
    UNROLL for (u32 axis = 0; axis < 3; axis++) {
        tile[axis] = args.before[axis] + part.at[axis];
        at[axis] = args.views[begin].first[axis] + part.at[axis];
    }
    const double* y_curve = args.curves + args.patch[0];
    const double product = args.curves[tile[0]] * y_curve[tile[1]] * y_curve[args.patch[1] + tile[2]];
    float weight = static_cast<float>(product);
    weight = weight > 0.0f ? weight : args.smallest;

    const u32 pitch = (args.channels + 7) / 8 * 8;
    const u64 patch_voxels = static_cast<u64>(args.patch[0]) * args.patch[1] * args.patch[2];
    // A sample's logits of this voxel.
    const auto logits = [&](u32 sample) {
        const WindowView view = args.views[begin + sample];
        u32 place[3];
        UNROLL for (u32 axis = 0; axis < 3; axis++) {
            place[axis] = flipped(view, axis, tile[axis], args.patch[axis]);
        }
        return args.logits + ((args.first_sample + sample) * patch_voxels + index_in(place, args.patch)) * pitch;
    };

    const u64 voxel = index_in(at, args.image_size);
    float weights = args.weights[voxel];
    for (u32 sample = 0; sample < samples; sample++) {
        weights += weight;
        if (args.activation == kSoftmax) {
            const Softmax softmax(logits(sample), args.channels);
            largest[sample][threadIdx.x] = softmax.largest;
            total[sample][threadIdx.x] = softmax.sum;
        }
    }
    args.weights[voxel] = weights;
    const u64 plane = static_cast<u64>(args.image_size[0]) * args.image_size[1] * args.image_size[2];
    for (u32 channel = 0; channel < args.channels; channel += 8) {
        float* sums = args.sums + channel * plane + voxel;
        float sum[8];
        UNROLL for (u32 c = 0; c < 8; c++) sum[c] = channel + c < args.channels ? sums[c * plane] : 0.0f;
        for (u32 sample = 0; sample < samples; sample++) {
            float z[8];
            load8(z, logits(sample) + channel);
            UNROLL for (u32 c = 0; c < 8; c++) {
                if (args.activation == kSoftmax) {
                    z[c] = expf(z[c] - largest[sample][threadIdx.x]) / total[sample][threadIdx.x];
                } else if (args.activation == kSigmoid) {
                    z[c] = 1.0f / (1.0f + expf(-z[c]));
                }
                sum[c] += z[c] * weight;
            }
        }
        UNROLL for (u32 c = 0; c < 8; c++) {
            if (channel + c < args.channels) sums[c * plane] = sum[c];
        }
    }
}

// On to the next batch.
KERNEL(window_next, 32, WindowNextArgs) {
    if (threadIdx.x == 0) *args.cursor += args.batch;
}

// Sums divided by weights.
KERNEL(window_means, window::kThreads, WindowMeansArgs) {
    const u32 voxel = blockIdx.x * window::kThreads + threadIdx.x;
    if (voxel >= args.voxels) return;
    const float weight = args.weights[voxel];
    bool finite = true;
    for (u32 channel = 0; channel < args.channels; channel++) {
        float* sum = args.sums + static_cast<u64>(channel) * args.voxels + voxel;
        const float mean = *sum / weight;
        finite = finite && (float_bits(mean) & 0x7f800000u) != 0x7f800000u;
        *sum = mean;
    }
    if (!finite) atomic_min(args.finite, 0);
}

// Every output interpolated between eight voxels of its map, and the class that this says: no interpolated value is
// ever in memory. In f64 along one axis after the other and rounded once, as on the host.
KERNEL(window_classes, window::kThreads, WindowClassesArgs) {
    using namespace window;
    const u32 index = blockIdx.x * kThreads + threadIdx.x;
    if (index >= args.target_voxels) return;
    double weights[3][2];
    u32 offset[3][2];
    UNROLL for (u32 step = 0; step < 3; step++) {
        const WindowTap tap = args.taps[step][index / args.target_stride[step] % args.target_size[step]];
        UNROLL for (u32 i = 0; i < 2; i++) {
            weights[step][i] = tap.weights[i];
            offset[step][i] = tap.at[i] * args.stride[step];
        }
    }
    float best = bits_float(kMinusInfinity);
    i32 winner = 0;
    const float* map = args.maps;
    for (u32 output = 0; output < args.outputs; output++, map += args.voxels) {
        double lines[2];
        UNROLL for (u32 last = 0; last < 2; last++) {
            double ends[2];
            UNROLL for (u32 middle = 0; middle < 2; middle++) {
                const float* from = map + (offset[2][last] + offset[1][middle]);
                ends[middle] = weights[0][0] * from[offset[0][0]] + weights[0][1] * from[offset[0][1]];
            }
            lines[last] = weights[1][0] * ends[0] + weights[1][1] * ends[1];
        }
        const float value = static_cast<float>(weights[2][0] * lines[0] + weights[2][1] * lines[1]);
        if (args.rule == kLargest) {
            if (value > best) {
                best = value;
                winner = static_cast<i32>(output);
            }
        } else if (value > args.threshold) {
            winner = args.region_classes[output];
        }
    }
    args.classes[index] = static_cast<i16>(winner);
}
