// Dice and cross-entropy over classes (softmax) or regions (sigmoids), and their gradient towards the logits.
//
// Sums of u, u v, the entropy and the counts over the voxels of a range (loss_sums), totals of samples (range_totals),
// terms and slopes from them (loss_terms), gradient (loss_gradient). Nothing goes through the host in between.
//
// Blocks and threads of the two passes over logits: VoxelPass. With more than eight channels the threads of a voxel
// tell each other their largest logits and sums through shared memory. Sums: in f32 over a thread's voxels (tens, each
// at most 1, so that rounding stays below that of the probabilities themselves), in f64 beyond.
//
// Bytes per voxel: 4 pitch + 2 for the sums, the same and the gradient's 2 pitch (bf16) or 4 pitch for the second pass.
#include "device.cuh"

// What both passes need. `members` has a bit per channel, [class][groups] bytes; regions only.
struct LossVoxels {
    const float* logits;
    const i16* target;
    const u8* members;
    u32 voxels;
    u32 groups;
    u32 range;
    u32 channels;
    u32 classes;
    i32 ignore;  // below -32768: none
};

struct LossSumsArgs {
    LossVoxels in;
    double* partials;  // [sample][range][6][pitch], rows below
    u32* unknown;      // smallest label that is no class; stays as it is if there is none
};

struct LossTermsArgs {
    const double* totals;  // [sample][6][pitch]
    double* terms;         // dice, cross-entropy, then [3][pitch]: true positives, false ones, false negatives
    float* slopes;         // [part][2][pitch], then that of the cross-entropy
    double smooth;
    double dice_weight;
    double entropy_weight;
    u32 batch;
    u32 groups;
    u32 channels;
    u32 first;        // channel that has a Dice term
    u32 parts;        // Dice fractions per channel: 1 for the batch, or one per sample
    u32 per_channel;  // 1: the entropy is a mean over channels too
};

struct LossGradientArgs {
    LossVoxels in;
    const float* slopes;
    void* gradient;
    u32 parts;
    u32 reserved;
};

struct LossNearestArgs {
    const i16* from;
    i16* to;
    u32 large[3];
    u32 small[3];
};

namespace dice {

// Rows of sums: per channel; the last has the entropy and the number of annotated voxels per group.
enum Row : u32 { kUv, kU, kTruePositives, kFalsePositives, kFalseNegatives, kScalars, kRows };

constexpr double kSmallestDenominator = 1e-8;

// What the threads of a voxel tell each other. Each array is written again only behind a barrier that comes after all
// have read it.
struct Exchange {
    float largest[kPassThreads];
    float sum[kPassThreads];
    float mean[kPassThreads];
};

// A voxel's label.
struct Label {
    i32 value;     // 0 for those outside the image
    bool counted;  // not ignored, not unknown
    bool unknown;
};

DEVICE Label label_of(const LossVoxels& in, u32 voxel, bool valid) {
    Label label{0, false, false};
    if (!valid) return label;
    const i32 found = in.target[static_cast<u64>(blockIdx.y) * in.voxels + voxel];
    if (found == in.ignore) return label;
    label.value = found > 0 ? found : 0;
    label.unknown = label.value >= static_cast<i32>(in.classes);
    label.counted = !label.unknown;
    return label;
}

// Which of this thread's eight channels are true, as bits.
template <bool regions>
DEVICE u32 truth(const LossVoxels& in, const VoxelPass& pass, const Label& label) {
    if (!label.counted) return 0;
    const u32 value = static_cast<u32>(label.value);
    if (regions) return in.members[value * in.groups + pass.group];
    return value / 8 == pass.group ? 1u << value % 8 : 0;
}

// Softmax of a voxel. All threads of the block call it.
struct Softmax {
    float u[8];
    float largest;
    float total;   // sum of exp(logit - largest)
    u32 winner;    // the first channel with the largest logit; if it is another thread's, any channel of that thread
};

DEVICE void softmax(const VoxelPass& pass, u32 channels, const float (&z)[8], Softmax& to, Exchange& exchange) {
    const float none = bits_float(0xff800000u);
    u32 best = 8 * pass.group;
    float largest = none;
    UNROLL for (u32 c = 0; c < 8; c++) {
        const u32 channel = 8 * pass.group + c;
        if (channel < channels && z[c] > largest) {
            largest = z[c];
            best = channel;
        }
    }
    const u32 voxel = threadIdx.x - pass.group;
    if (pass.groups > 1) {
        exchange.largest[threadIdx.x] = largest;
        barrier();
        if (pass.lane < pass.step) {
            u32 owner = 0;
            largest = exchange.largest[voxel];
            for (u32 g = 1; g < pass.groups; g++) {
                const float other = exchange.largest[voxel + g];
                if (other > largest) {
                    largest = other;
                    owner = g;
                }
            }
            if (owner != pass.group) best = 8 * owner;
        }
    }
    to.largest = largest;
    to.winner = best;
    float total = 0.0f;
    UNROLL for (u32 c = 0; c < 8; c++) {
        to.u[c] = 8 * pass.group + c < channels ? expf(z[c] - largest) : 0.0f;
        total += to.u[c];
    }
    if (pass.groups > 1) {
        exchange.sum[threadIdx.x] = total;
        barrier();
        if (pass.lane < pass.step) {
            total = 0.0f;
            for (u32 g = 0; g < pass.groups; g++) total += exchange.sum[voxel + g];
        }
    }
    to.total = total;
    const float share = 1.0f / total;
    UNROLL for (u32 c = 0; c < 8; c++) to.u[c] *= share;
}

// 1 / (1 + e^-z) without overflow; `e` becomes e^-|z|.
DEVICE float sigmoid(float z, float& e) {
    e = expf(-fabsf(z));
    return (z >= 0.0f ? 1.0f : e) / (1.0f + e);
}

struct Sums {
    float uv[8], u[8];
    u32 true_positives[8], false_positives[8], false_negatives[8];
    float entropy;
    u32 annotated;
};

DEVICE void add_classes(const LossVoxels& in, const VoxelPass& pass, const float (&z)[8], const Label& label, u32 mask,
                        Sums& sums, Exchange& exchange) {
    Softmax s;
    softmax(pass, in.channels, z, s, exchange);
    if (!label.counted) return;
    const u32 value = static_cast<u32>(label.value);
    const bool owns_winner = s.winner / 8 == pass.group, hit = s.winner == value;
    UNROLL for (u32 c = 0; c < 8; c++) {
        sums.u[c] += s.u[c];
        if (mask >> c & 1) {
            sums.uv[c] += s.u[c];
            sums.entropy += logf(s.total) - (z[c] - s.largest);
            sums.true_positives[c] += owns_winner && hit;
            sums.false_negatives[c] += !(owns_winner && hit);
        } else {
            sums.false_positives[c] += owns_winner && s.winner % 8 == c;
        }
    }
}

DEVICE void add_regions(const LossVoxels& in, const VoxelPass& pass, const float (&z)[8], const Label& label, u32 mask,
                        Sums& sums) {
    if (!label.counted) return;
    UNROLL for (u32 c = 0; c < 8; c++) {
        if (8 * pass.group + c >= in.channels) continue;
        float e;
        const float u = sigmoid(z[c], e);
        const bool v = mask >> c & 1, predicted = u > 0.5f;
        sums.u[c] += u;
        // With v 0 or 1 this neither overflows nor loses digits, wherever z lies.
        sums.entropy += (z[c] > 0.0f ? z[c] : 0.0f) - (v ? z[c] : 0.0f) + log1pf(e);
        if (v) sums.uv[c] += u;
        sums.true_positives[c] += predicted && v;
        sums.false_positives[c] += predicted && !v;
        sums.false_negatives[c] += !predicted && v;
    }
}

DEVICE void widen(const u32 (&counts)[8], float (&to)[8]) {
    UNROLL for (u32 c = 0; c < 8; c++) to[c] = static_cast<float>(counts[c]);
}

template <bool regions>
DEVICE void sum(const LossSumsArgs& args, Exchange& exchange, PassShared& shared) {
    const VoxelPass pass(args.in.voxels, args.in.groups, args.in.range);
    Sums sums = {};
    // All threads take every turn: they meet in the exchange.
    for (u32 turn = pass.first; turn < pass.end; turn += pass.step) {
        const u32 voxel = turn + pass.lane;
        const bool valid = pass.lane < pass.step && voxel < pass.end;
        float z[8] = {};
        if (valid) load8(z, args.in.logits + pass.at(voxel));
        const Label label = label_of(args.in, voxel, valid);
        const u32 mask = truth<regions>(args.in, pass, label);
        if (regions) {
            add_regions(args.in, pass, z, label, mask, sums);
        } else {
            add_classes(args.in, pass, z, label, mask, sums, exchange);
        }
        sums.annotated += label.counted && pass.group == 0;
        if (label.unknown && pass.group == 0) atomic_min(args.unknown, static_cast<u32>(label.value));
    }
    const u32 pitch = 8 * args.in.groups;
    double* to = args.partials + (static_cast<u64>(blockIdx.y) * gridDim.x + blockIdx.x) * kRows * pitch;
    float row[8] = {};
    pass_sums(pass, sums.uv, to + kUv * pitch, shared);
    pass_sums(pass, sums.u, to + kU * pitch, shared);
    widen(sums.true_positives, row);
    pass_sums(pass, row, to + kTruePositives * pitch, shared);
    widen(sums.false_positives, row);
    pass_sums(pass, row, to + kFalsePositives * pitch, shared);
    widen(sums.false_negatives, row);
    pass_sums(pass, row, to + kFalseNegatives * pitch, shared);
    UNROLL for (u32 c = 0; c < 8; c++) row[c] = 0.0f;
    row[0] = sums.entropy;
    row[1] = static_cast<float>(sums.annotated);
    pass_sums(pass, row, to + kScalars * pitch, shared);
}

// Softmax: u_c (g_c - sum of u_k g_k) + e (u_c - v_c); sigmoid: u (1 - u) g + e (u - v), with g = a v + b.
template <typename T, bool regions>
DEVICE void gradient(const LossGradientArgs& args, Exchange& exchange) {
    const VoxelPass pass(args.in.voxels, args.in.groups, args.in.range);
    const u32 pitch = 8 * args.in.groups;
    const float* slopes = args.slopes + (args.parts > 1 ? 2 * blockIdx.y * pitch : 0) + 8 * pass.group;
    const float entropy = args.slopes[2 * args.parts * pitch];
    float a[8], b[8];
    load8(a, slopes);
    load8(b, slopes + pitch);
    for (u32 turn = pass.first; turn < pass.end; turn += pass.step) {
        const u32 voxel = turn + pass.lane;
        const bool valid = pass.lane < pass.step && voxel < pass.end;
        float z[8] = {};
        if (valid) load8(z, args.in.logits + pass.at(voxel));
        const Label label = label_of(args.in, voxel, valid);
        const u32 mask = truth<regions>(args.in, pass, label);
        float d[8];
        if (regions) {
            UNROLL for (u32 c = 0; c < 8; c++) {
                float e;
                const float u = sigmoid(z[c], e), v = mask >> c & 1 ? 1.0f : 0.0f;
                const bool used = label.counted && 8 * pass.group + c < args.in.channels;
                d[c] = used ? u * (1.0f - u) * (a[c] * v + b[c]) + entropy * (u - v) : 0.0f;
            }
        } else {
            Softmax s;
            softmax(pass, args.in.channels, z, s, exchange);
            float mean = 0.0f;
            UNROLL for (u32 c = 0; c < 8; c++) mean += s.u[c] * (mask >> c & 1 ? b[c] + a[c] : b[c]);
            if (pass.groups > 1) {
                exchange.mean[threadIdx.x] = mean;
                barrier();
                if (pass.lane < pass.step) {
                    mean = 0.0f;
                    for (u32 g = 0; g < pass.groups; g++) mean += exchange.mean[threadIdx.x - pass.group + g];
                }
            }
            UNROLL for (u32 c = 0; c < 8; c++) {
                const bool v = mask >> c & 1;
                const float g = v ? b[c] + a[c] : b[c];
                // Padding has u = 0 and is never true.
                d[c] = label.counted ? s.u[c] * (g - mean) + entropy * (v ? s.u[c] - 1.0f : s.u[c]) : 0.0f;
            }
        }
        if (valid) store8(static_cast<T*>(args.gradient) + pass.at(voxel), d);
    }
}

// The sum over a block's threads, in one order; thread 0 has it.
DEVICE double block_sum(double value, double (&shared)[kPassThreads]) {
    barrier();
    shared[threadIdx.x] = value;
    for (u32 half = kPassThreads / 2; half > 0; half /= 2) {
        barrier();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    return shared[0];
}

}  // namespace dice

KERNEL(loss_sums_classes, kPassThreads, LossSumsArgs) {
    __shared__ dice::Exchange exchange;
    __shared__ PassShared shared;
    dice::sum<false>(args, exchange, shared);
}

KERNEL(loss_sums_regions, kPassThreads, LossSumsArgs) {
    __shared__ dice::Exchange exchange;
    __shared__ PassShared shared;
    dice::sum<true>(args, exchange, shared);
}

// One block. With sums over a part (the batch, or a sample), per channel: (2 uv + s) / max(u + v + s, 1e-8).
KERNEL(loss_terms, kPassThreads, LossTermsArgs) {
    __shared__ double shared[kPassThreads];
    const u32 pitch = 8 * args.groups, samples = args.batch / args.parts;
    const double fractions = static_cast<double>(args.parts) * (args.channels - args.first);
    double term = 0.0;
    for (u32 i = threadIdx.x; i < args.parts * pitch; i += kPassThreads) {
        const u32 part = i / pitch, channel = i % pitch;
        double uv = 0.0, below = args.smooth;
        for (u32 sample = part * samples; sample < (part + 1) * samples; sample++) {
            const double* rows = args.totals + static_cast<u64>(sample) * dice::kRows * pitch + channel;
            uv += rows[dice::kUv * pitch];
            // Every true voxel is found or missed.
            below += rows[dice::kU * pitch] + rows[dice::kTruePositives * pitch] + rows[dice::kFalseNegatives * pitch];
        }
        const double above = 2.0 * uv + args.smooth;
        const bool clipped = !(below > dice::kSmallestDenominator);
        if (clipped) below = dice::kSmallestDenominator;
        const bool used = channel >= args.first && channel < args.channels;
        const double weight = used ? args.dice_weight / fractions : 0.0;
        if (used) term -= above / below / fractions;
        float* slopes = args.slopes + 2 * part * pitch + channel;
        slopes[0] = static_cast<float>(-2.0 * weight / below);
        slopes[pitch] = clipped ? 0.0f : static_cast<float>(weight * above / (below * below));
    }
    double entropy = 0.0, annotated = 0.0;
    for (u32 i = threadIdx.x; i < args.batch * args.groups; i += kPassThreads) {
        const double* rows = args.totals + static_cast<u64>(i / args.groups) * dice::kRows * pitch;
        entropy += rows[dice::kScalars * pitch + i % args.groups * 8];
        annotated += rows[dice::kScalars * pitch + i % args.groups * 8 + 1];
    }
    for (u32 i = threadIdx.x; i < 3 * pitch; i += kPassThreads) {
        double count = 0.0;
        for (u32 sample = 0; sample < args.batch; sample++) {
            count += args.totals[(static_cast<u64>(sample) * dice::kRows + dice::kTruePositives) * pitch + i];
        }
        args.terms[2 + i] = count;
    }
    term = dice::block_sum(term, shared);
    entropy = dice::block_sum(entropy, shared);
    annotated = dice::block_sum(annotated, shared);
    if (threadIdx.x > 0) return;
    // Without an annotated voxel the sum is 0; any divisor will do.
    double divisor = annotated > 1.0 ? annotated : 1.0;
    if (args.per_channel) divisor *= args.channels;
    args.terms[0] = term;
    args.terms[1] = entropy / divisor;
    args.slopes[2 * args.parts * pitch] = static_cast<float>(args.entropy_weight / divisor);
}

KERNEL(loss_gradient_classes_bf16, kPassThreads, LossGradientArgs) {
    __shared__ dice::Exchange exchange;
    dice::gradient<bf16, false>(args, exchange);
}

KERNEL(loss_gradient_classes_f32, kPassThreads, LossGradientArgs) {
    __shared__ dice::Exchange exchange;
    dice::gradient<float, false>(args, exchange);
}

KERNEL(loss_gradient_regions_bf16, kPassThreads, LossGradientArgs) {
    __shared__ dice::Exchange exchange;
    dice::gradient<bf16, true>(args, exchange);
}

KERNEL(loss_gradient_regions_f32, kPassThreads, LossGradientArgs) {
    __shared__ dice::Exchange exchange;
    dice::gradient<float, true>(args, exchange);
}

// Labels at a coarser resolution: the voxel at each coarse voxel's centre, the upper one of two. A thread has a voxel
// of the small grid (blockIdx.x, threadIdx.x) of a sample (blockIdx.y).
KERNEL(loss_nearest, kPassThreads, LossNearestArgs) {
    const u32 voxels = args.small[0] * args.small[1] * args.small[2];
    const u32 voxel = blockIdx.x * kPassThreads + threadIdx.x;
    if (voxel >= voxels) return;
    const u32 row = voxel / args.small[2];
    const u32 at[3] = {row / args.small[1], row % args.small[1], voxel % args.small[2]};
    u64 from = blockIdx.y;
    UNROLL for (u32 i = 0; i < 3; i++) {
        from = from * args.large[i] + (2 * at[i] + 1) * args.large[i] / (2 * args.small[i]);
    }
    args.to[static_cast<u64>(blockIdx.y) * voxels + voxel] = args.from[from];
}
