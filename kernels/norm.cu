// Instance norm with scale and shift, then leaky ReLU, and the end of a residual block (norm, plus the skip, leaky
// ReLU); forward and backward.
//
// Per sample and channel, with d = y - mean: z = d (gamma inverse) + beta (+ skip), a = z > 0 ? z : slope z, and with g
// the gradient behind the ReLU and h = d inverse: dy = gamma inverse (g - mean(g) - h mean(g h)).
//
// Blocks and threads: VoxelPass. Sums: in f32 over a thread's voxels (tens), in f64 beyond, over threads, ranges and
// samples in this order. The range of a block is a function of the shape alone, so that sums do not know the card.
//
// Bytes per element of bf16: apply 4 (in place too); backward 4 + 6; residual add 6 (4 onto the skip), backward
// 6 + 10. These passes run at the speed of memory.
#include "device.cuh"

struct NormMomentsArgs {
    const float* partials;  // [sample][tile][3][pitch]: voxels, mean, sum of squares about it
    const float* gamma;
    const float* beta;
    float* moments;  // [sample][pitch][4]: mean, 1 / sd, gamma, beta
    u32 tiles;
    u32 channels;
    u32 pitch;
    float epsilon;
};

struct NormApplyArgs {
    const void* y;
    const void* skip;
    const float* moments;
    void* a;
    u32 voxels;
    u32 groups;
    u32 range;  // voxels of a block
    float slope;
};

struct NormSumsArgs {
    const void* y;
    const void* a;
    const void* da;
    const float* moments;
    double* partials;  // [sample][range][2][pitch]: sum of g, of g h
    u32 voxels;
    u32 groups;
    u32 range;
    float slope;
};

struct NormBackwardArgs {
    const void* y;
    const void* a;
    const float* moments;
    const double* totals;
    void* da;
    void* dy;
    float* dgamma;
    float* dbeta;
    u32 voxels;
    u32 groups;
    u32 range;
    u32 channels;
    u32 batch;
    float slope;
};

namespace instance_norm {

constexpr u32 kMomentsThreads = 1024;
// Voxels of a thread that are under way at once.
constexpr u32 kDepth = 2;

struct Moments {
    float mean, inverse, gamma, beta;
};

// Of channel c of this thread's eight.
DEVICE Moments moments(const float* all, const VoxelPass& pass, u32 c) {
    const Vec16 v = load16(all + 4 * ((blockIdx.y * pass.groups + pass.group) * 8 + c));
    return {bits_float(v.word[0]), bits_float(v.word[1]), bits_float(v.word[2]), bits_float(v.word[3])};
}

template <typename T, bool residual>
DEVICE void apply(const NormApplyArgs& args) {
    const VoxelPass pass(args.voxels, args.groups, args.range);
    const T* y = static_cast<const T*>(args.y);
    const T* skip = static_cast<const T*>(args.skip);
    T* a = static_cast<T*>(args.a);
    float mean[8], scale[8], beta[8];
    UNROLL for (u32 c = 0; c < 8; c++) {
        const Moments m = moments(args.moments, pass, c);
        mean[c] = m.mean;
        scale[c] = m.gamma * m.inverse;
        beta[c] = m.beta;
    }
    for (u32 voxel = pass.begin(); voxel < pass.end; voxel += kDepth * pass.step) {
        float v[kDepth][8], add[kDepth][8];
        UNROLL for (u32 k = 0; k < kDepth; k++) {
            const u32 here = voxel + k * pass.step;
            if (here < pass.end) {
                load8(v[k], y + pass.at(here));
                if (residual) load8(add[k], skip + pass.at(here));
            }
        }
        UNROLL for (u32 k = 0; k < kDepth; k++) {
            const u32 here = voxel + k * pass.step;
            if (here < pass.end) {
                UNROLL for (u32 c = 0; c < 8; c++) {
                    float z = (v[k][c] - mean[c]) * scale[c] + beta[c];
                    if (residual) z += add[k][c];
                    v[k][c] = z > 0.0f ? z : z * args.slope;
                }
                store8(a + pass.at(here), v[k]);
            }
        }
    }
}

// Sums of g and g h over a block's voxels.
template <typename T, bool residual>
DEVICE void backward_sums(const NormSumsArgs& args, PassShared& shared) {
    const VoxelPass pass(args.voxels, args.groups, args.range);
    const T* y = static_cast<const T*>(args.y);
    const T* a = static_cast<const T*>(args.a);
    const T* da = static_cast<const T*>(args.da);
    float mean[8], scale[8], beta[8], sum_g[8], sum_gh[8];
    UNROLL for (u32 c = 0; c < 8; c++) {
        const Moments m = moments(args.moments, pass, c);
        mean[c] = m.mean;
        scale[c] = m.gamma * m.inverse;
        beta[c] = m.beta;
        sum_g[c] = sum_gh[c] = 0.0f;
    }
    for (u32 voxel = pass.begin(); voxel < pass.end; voxel += kDepth * pass.step) {
        float v[kDepth][8], g[kDepth][8], sign[kDepth][8];
        UNROLL for (u32 k = 0; k < kDepth; k++) {
            const u32 here = voxel + k * pass.step;
            if (here < pass.end) {
                const u64 at = pass.at(here);
                load8(v[k], y + at);
                load8(g[k], da + at);
                if (residual) load8(sign[k], a + at);
            }
        }
        UNROLL for (u32 k = 0; k < kDepth; k++) {
            if (voxel + k * pass.step < pass.end) {
                UNROLL for (u32 c = 0; c < 8; c++) {
                    const float d = v[k][c] - mean[c];
                    const float z = residual ? sign[k][c] : d * scale[c] + beta[c];
                    const float slope = z > 0.0f ? 1.0f : args.slope;
                    sum_g[c] += g[k][c] * slope;
                    sum_gh[c] += g[k][c] * slope * d;
                }
            }
        }
    }
    UNROLL for (u32 c = 0; c < 8; c++) sum_gh[c] *= moments(args.moments, pass, c).inverse;
    double* to = args.partials + (static_cast<u64>(blockIdx.y) * gridDim.x + blockIdx.x) * 16 * args.groups;
    pass_sums(pass, sum_g, to, shared);
    pass_sums(pass, sum_gh, to + 8 * args.groups, shared);
}

// Totals of g and g h to means; the first block also adds the samples' totals to the parameters' gradients.
template <typename T, bool residual>
DEVICE void backward(const NormBackwardArgs& args) {
    const VoxelPass pass(args.voxels, args.groups, args.range);
    const u32 pitch = 8 * args.groups;
    if (blockIdx.x == 0 && blockIdx.y == 0) {
        for (u32 channel = threadIdx.x; channel < args.channels; channel += kPassThreads) {
            double total_g = 0.0, total_gh = 0.0;
            for (u32 sample = 0; sample < args.batch; sample++) {
                total_g += args.totals[2 * sample * pitch + channel];
                total_gh += args.totals[(2 * sample + 1) * pitch + channel];
            }
            args.dbeta[channel] = static_cast<float>(total_g);
            args.dgamma[channel] = static_cast<float>(total_gh);
        }
    }
    const T* y = static_cast<const T*>(args.y);
    const T* a = static_cast<const T*>(args.a);
    T* da = static_cast<T*>(args.da);
    T* dy = static_cast<T*>(args.dy);
    // dy = scale g - shift - tilt d.
    float mean[8], scale[8], beta[8], shift[8], tilt[8];
    UNROLL for (u32 c = 0; c < 8; c++) {
        const Moments m = moments(args.moments, pass, c);
        const double* totals = args.totals + 2 * blockIdx.y * pitch + 8 * pass.group + c;
        const float mean_g = static_cast<float>(totals[0] / args.voxels);
        const float mean_gh = static_cast<float>(totals[pitch] / args.voxels);
        mean[c] = m.mean;
        scale[c] = m.gamma * m.inverse;
        beta[c] = m.beta;
        shift[c] = scale[c] * mean_g;
        tilt[c] = scale[c] * mean_gh * m.inverse;
    }
    for (u32 voxel = pass.begin(); voxel < pass.end; voxel += kDepth * pass.step) {
        float v[kDepth][8], g[kDepth][8], sign[kDepth][8];
        UNROLL for (u32 k = 0; k < kDepth; k++) {
            const u32 here = voxel + k * pass.step;
            if (here < pass.end) {
                const u64 at = pass.at(here);
                load8(v[k], y + at);
                load8(g[k], da + at);
                if (residual) load8(sign[k], a + at);
            }
        }
        UNROLL for (u32 k = 0; k < kDepth; k++) {
            const u32 here = voxel + k * pass.step;
            if (here < pass.end) {
                const u64 at = pass.at(here);
                UNROLL for (u32 c = 0; c < 8; c++) {
                    const float d = v[k][c] - mean[c];
                    const float z = residual ? sign[k][c] : d * scale[c] + beta[c];
                    g[k][c] *= z > 0.0f ? 1.0f : args.slope;
                    v[k][c] = scale[c] * g[k][c] - shift[c] - tilt[c] * d;
                }
                if (residual) store8(da + at, g[k]);
                store8(dy + at, v[k]);
            }
        }
    }
}

}  // namespace instance_norm

// Statistics of tiles to those of a sample. With k the first tile's mean, the sample's are sums over tiles: of n, of
// n (mean - k) and of squares + n (mean - k)^2; the shift by k leaves nothing to cancel, whatever the mean.
// A block has eight channels (blockIdx.x) of a sample (blockIdx.y) and 128 threads for each.
KERNEL(norm_moments, instance_norm::kMomentsThreads, NormMomentsArgs) {
    constexpr u32 kParts = instance_norm::kMomentsThreads / 8;
    __shared__ double sums[3][kParts][8];
    const u32 lane = threadIdx.x % 8, part = threadIdx.x / 8, channel = 8 * blockIdx.x + lane;
    const float* tiles = args.partials + static_cast<u64>(blockIdx.y) * args.tiles * 3 * args.pitch + channel;
    const double pivot = tiles[args.pitch];
    double count = 0.0, sum = 0.0, squares = 0.0;
    for (u32 tile = part; tile < args.tiles; tile += kParts) {
        const float* at = tiles + static_cast<u64>(tile) * 3 * args.pitch;
        const double n = at[0], away = at[args.pitch] - pivot;
        count += n;
        sum += n * away;
        squares += at[2 * args.pitch] + n * away * away;
    }
    sums[0][part][lane] = count;
    sums[1][part][lane] = sum;
    sums[2][part][lane] = squares;
    for (u32 half = kParts / 2; half > 0; half /= 2) {
        barrier();
        if (part < half) {
            UNROLL for (u32 i = 0; i < 3; i++) sums[i][part][lane] += sums[i][part + half][lane];
        }
    }
    if (part > 0) return;
    float* to = args.moments + 4 * (static_cast<u64>(blockIdx.y) * args.pitch + channel);
    if (channel >= args.channels) {
        UNROLL for (u32 i = 0; i < 4; i++) to[i] = 0.0f;
        return;
    }
    count = sums[0][0][lane];
    const double away = sums[1][0][lane] / count;
    const double variance = sums[2][0][lane] / count - away * away;
    to[0] = static_cast<float>(pivot + away);
    to[1] = static_cast<float>(1.0 / sqrt((variance > 0.0 ? variance : 0.0) + args.epsilon));
    to[2] = args.gamma[channel];
    to[3] = args.beta[channel];
}

KERNEL(norm_apply_bf16, kPassThreads, NormApplyArgs) { instance_norm::apply<bf16, false>(args); }
KERNEL(norm_apply_f32, kPassThreads, NormApplyArgs) { instance_norm::apply<float, false>(args); }
KERNEL(residual_add_bf16, kPassThreads, NormApplyArgs) { instance_norm::apply<bf16, true>(args); }
KERNEL(residual_add_f32, kPassThreads, NormApplyArgs) { instance_norm::apply<float, true>(args); }
KERNEL(norm_backward_sums_bf16, kPassThreads, NormSumsArgs) {
    __shared__ PassShared shared;
    instance_norm::backward_sums<bf16, false>(args, shared);
}
KERNEL(norm_backward_sums_f32, kPassThreads, NormSumsArgs) {
    __shared__ PassShared shared;
    instance_norm::backward_sums<float, false>(args, shared);
}
KERNEL(residual_backward_sums_bf16, kPassThreads, NormSumsArgs) {
    __shared__ PassShared shared;
    instance_norm::backward_sums<bf16, true>(args, shared);
}
KERNEL(residual_backward_sums_f32, kPassThreads, NormSumsArgs) {
    __shared__ PassShared shared;
    instance_norm::backward_sums<float, true>(args, shared);
}
KERNEL(norm_backward_bf16, kPassThreads, NormBackwardArgs) { instance_norm::backward<bf16, false>(args); }
KERNEL(norm_backward_f32, kPassThreads, NormBackwardArgs) { instance_norm::backward<float, false>(args); }
KERNEL(residual_backward_bf16, kPassThreads, NormBackwardArgs) { instance_norm::backward<bf16, true>(args); }
KERNEL(residual_backward_f32, kPassThreads, NormBackwardArgs) { instance_norm::backward<float, true>(args); }
