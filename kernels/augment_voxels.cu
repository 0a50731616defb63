// Augmentation, what is done voxel by voxel: random numbers, intensities, statistics of a channel, the last write.
//
// A channel is a patch of `voxels` numbers in C order (z, y, x). Work is given as lists of tasks, one for each channel
// that a transform fires for: blockIdx.y is the task, blockIdx.x a range of the channel's voxels.
#include "device.cuh"

// ---- Random numbers: Philox 4x32-10 (Salmon et al. 2011). Key: the seed; counter: voxel / 4, 0, channel, 0. Voxel
// 4 k + i takes word i of block k. The formulas are those of crates/augment/src/counter.rs.

struct Words {
    u32 word[4];
};

DEVICE u32 upper_product(u32 a, u32 b) { return static_cast<u32>(static_cast<u64>(a) * b >> 32); }

DEVICE Words philox(u32 block, u32 channel, u64 seed) {
    Words w = {{block, 0, channel, 0}};
    u32 key0 = static_cast<u32>(seed), key1 = static_cast<u32>(seed >> 32);
    UNROLL for (u32 round = 0; round < 10; round++) {
        w = {{upper_product(0xcd9e8d57u, w.word[2]) ^ w.word[1] ^ key0, 0xcd9e8d57u * w.word[2],
              upper_product(0xd2511f53u, w.word[0]) ^ w.word[3] ^ key1, 0xd2511f53u * w.word[0]}};
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return w;
}

constexpr float ln_2 = 0.693147180559945309f;
constexpr float log2_e = 1.44269504088896341f;

// The whole part of log2 and ln of the rest, for the bits of a normal number: the mantissa is taken between √½ and √2.
DEVICE void split_logarithm(u32 bits, float& whole, float& rest) {
    const u32 sqrt_half = 0x3f3504f3u;
    const u32 shifted = bits - sqrt_half;
    whole = static_cast<float>(static_cast<i32>(shifted) >> 23);
    const float mantissa = bits_float((shifted & 0x007fffffu) + sqrt_half);
    const float s = (mantissa - 1.0f) / (mantissa + 1.0f), q = s * s;
    const float series = 1.0f + q * (1.0f / 3.0f + q * (0.2f + q * (1.0f / 7.0f + q * (1.0f / 9.0f))));
    rest = 2.0f * s * series;
}

// Two independent standard normal numbers: radius √(−2 ln u); the direction is π/4 + a in the first quadrant, and a sign
// for each of the two.
DEVICE void box_muller(u32 first, u32 second, float& x, float& y) {
    const float u = static_cast<float>(static_cast<i32>(first >> 8) + 1) * (1.0f / 16777216.0f);
    float whole, rest;
    split_logarithm(float_bits(u), whole, rest);
    const float radius = sqrtf(-(whole * ln_2 + rest));
    const float a = static_cast<float>(static_cast<i32>(second << 2)) * (1.57079632679489662f / 4294967296.0f);
    const float q = a * a;
    const float sine =
        a * (1.0f + q * (-1.0f / 6.0f + q * (1.0f / 120.0f + q * (-1.0f / 5040.0f + q * (1.0f / 362880.0f)))));
    const float cosine = 1.0f + q * (-0.5f + q * (1.0f / 24.0f + q * (-1.0f / 720.0f + q * (1.0f / 40320.0f))));
    x = bits_float(float_bits(radius * (cosine - sine)) ^ (second & 0x80000000u));
    y = bits_float(float_bits(radius * (cosine + sine)) ^ (second << 1 & 0x80000000u));
}

// Fills `components` arrays of `voxels` numbers with white noise, uniform in −1..1. A thread draws four neighbours;
// blockIdx.y is the component, which draws as channel `first` + component.
struct AugmentWhiteArgs {
    float* to;
    u64 seed;
    u32 voxels;
    u32 first;
};

KERNEL(augment_white, 256, AugmentWhiteArgs) {
    const u32 block = blockIdx.x * 256 + threadIdx.x;
    const Words words = philox(block, args.first + blockIdx.y, args.seed);
    float* to = args.to + static_cast<u64>(blockIdx.y) * args.voxels;
    UNROLL for (u32 i = 0; i < 4; i++) {
        const u32 v = 4 * block + i;
        if (v < args.voxels) to[v] = static_cast<float>(static_cast<i32>(words.word[i] >> 8)) * (1.0f / 8388608.0f) - 1.0f;
    }
}

// Adds `sigma` × standard normal numbers. A thread draws four neighbours.
struct NoiseTask {
    float* values;
    u64 seed;
    u32 channel;
    float sigma;
};

struct AugmentNoiseArgs {
    const NoiseTask* tasks;
    u32 voxels;
    u32 unused;
};

KERNEL(augment_noise, 256, AugmentNoiseArgs) {
    const NoiseTask task = args.tasks[blockIdx.y];
    const u32 block = blockIdx.x * 256 + threadIdx.x;
    const Words words = philox(block, task.channel, task.seed);
    float normal[4];
    box_muller(words.word[0], words.word[1], normal[0], normal[1]);
    box_muller(words.word[2], words.word[3], normal[2], normal[3]);
    UNROLL for (u32 i = 0; i < 4; i++) {
        const u32 v = 4 * block + i;
        if (v < args.voxels) task.values[v] += task.sigma * normal[i];
    }
}

// ---- Statistics of a channel, in two levels. A block of `augment_statistics` sums a part of `part_voxels` voxels, in an
// order that depends on nothing else; `augment_total` adds the parts.

constexpr u32 part_voxels = 16384;

// Sums of value − origin and of its square; extrema.
struct Part {
    double sum;
    double squares;
    float low;
    float high;
    float origin;
    u32 unused;
};

struct Statistics {
    double mean;
    double deviation;
    float low;
    float high;
};

DEVICE void join(Part& part, const Part& other) {
    part.sum += other.sum;
    part.squares += other.squares;
    part.low = fminf(part.low, other.low);
    part.high = fmaxf(part.high, other.high);
}

DEVICE Part nothing(float origin) {
    return {0.0, 0.0, bits_float(0x7f800000u), bits_float(0xff800000u), origin, 0};
}

DEVICE void count_in(Part& part, float value) {
    const double d = static_cast<double>(value) - static_cast<double>(part.origin);
    part.sum += d;
    part.squares += d * d;
    part.low = fminf(part.low, value);
    part.high = fmaxf(part.high, value);
}

// The parts of a block's 256 threads together, in thread 0; `parts` is shared memory.
DEVICE Part join_block(Part part, Part (&parts)[256]) {
    parts[threadIdx.x] = part;
    for (u32 width = 128; width > 0; width /= 2) {
        barrier();
        if (threadIdx.x < width) join(parts[threadIdx.x], parts[threadIdx.x + width]);
    }
    return parts[threadIdx.x];
}

// Of factor × the values.
struct StatisticsTask {
    const float* values;
    float factor;
    u32 unused;
};

struct AugmentStatisticsArgs {
    const StatisticsTask* tasks;
    Part* parts;  // [task][part]
    u32 voxels;
    u32 unused;
};

KERNEL(augment_statistics, 256, AugmentStatisticsArgs) {
    __shared__ Part shared[256];
    const StatisticsTask task = args.tasks[blockIdx.y];
    Part part = nothing(task.factor * task.values[0]);
    const u32 begin = blockIdx.x * part_voxels + threadIdx.x;
    const u32 end = blockIdx.x * part_voxels + part_voxels < args.voxels ? blockIdx.x * part_voxels + part_voxels : args.voxels;
    for (u32 v = begin; v < end; v += 256) count_in(part, task.factor * task.values[v]);
    part = join_block(part, shared);
    if (threadIdx.x == 0) args.parts[blockIdx.y * gridDim.x + blockIdx.x] = part;
}

// blockIdx.x is the task; each lane adds every 32nd part.
struct AugmentTotalArgs {
    const Part* parts;
    Statistics* to;
    u32 parts_per_task;
    u32 voxels;
};

KERNEL(augment_total, 32, AugmentTotalArgs) {
    const Part* parts = args.parts + blockIdx.x * args.parts_per_task;
    Part total = nothing(parts[0].origin);
    for (u32 i = threadIdx.x; i < args.parts_per_task; i += 32) join(total, parts[i]);
    for (u32 width = 16; width > 0; width /= 2) {
        Part other = total;
        other.sum = shuffle_xor(total.sum, width);
        other.squares = shuffle_xor(total.squares, width);
        other.low = shuffle_xor(total.low, width);
        other.high = shuffle_xor(total.high, width);
        join(total, other);
    }
    if (threadIdx.x > 0) return;
    const double mean = total.sum / args.voxels, variance = total.squares / args.voxels - mean * mean;
    args.to[blockIdx.x] = {static_cast<double>(total.origin) + mean, sqrt(variance > 0.0 ? variance : 0.0), total.low,
                           total.high};
}

// ---- Brightness, then contrast: y = brightness · x, z = (y − mean) · contrast + mean between the extrema of y. The
// statistics are those of y, in the tasks' order.

struct AdjustTask {
    float* values;
    float brightness;
    float contrast;
    u32 statistics;  // which of them; not read without contrast
    u32 with_contrast;
};

struct AugmentAdjustArgs {
    const AdjustTask* tasks;
    const Statistics* statistics;
    u32 voxels;
    u32 unused;
};

KERNEL(augment_adjust, 256, AugmentAdjustArgs) {
    const AdjustTask task = args.tasks[blockIdx.y];
    Statistics s = {};
    if (task.with_contrast) s = args.statistics[task.statistics];
    const float mean = static_cast<float>(s.mean);
    UNROLL for (u32 i = 0; i < 4; i++) {
        const u32 v = blockIdx.x * 1024 + i * 256 + threadIdx.x;
        if (v >= args.voxels) return;
        float x = task.brightness * task.values[v];
        if (task.with_contrast) x = fminf(fmaxf((x - mean) * task.contrast + mean, s.low), s.high);
        task.values[v] = x;
    }
}

// ---- Gamma: x′ = ((x − low) / range)^exponent · range + low of x = sign · value. `augment_gamma` computes x′ and sums it
// up for `augment_total`; `augment_restore` brings mean and deviation back and undoes the sign. Without retained
// statistics `augment_gamma` alone does it. A channel of one value stays as it is.

struct GammaTask {
    float* values;
    float sign;
    float exponent;
};

// x^exponent for x in 0..=1, as crates/augment/src/intensity.rs computes it.
DEVICE float power(float x, float exponent) {
    const float smallest = 1.17549435e-38f;
    float whole, rest;
    split_logarithm(float_bits(fmaxf(x, smallest)), whole, rest);
    const float y = fmaxf(exponent * (whole + log2_e * rest), -126.0f);
    // Adding 1.5 · 2²³ rounds; the whole number stands in the lowest bits of the sum.
    const float round = 12582912.0f;
    const float rounded = y + round;
    const float n = rounded - round;
    const float f = (y - n) * ln_2;
    const float fraction =
        1.0f + f * (1.0f + f * (0.5f + f * (1.0f / 6.0f + f * (1.0f / 24.0f + f * (1.0f / 120.0f + f / 720.0f)))));
    const float scale = bits_float((float_bits(rounded) << 23) + (127u << 23));
    return x < smallest ? 0.0f : fraction * scale;
}

struct AugmentGammaArgs {
    const GammaTask* tasks;
    const Statistics* before;  // of sign · value
    Part* parts;               // [task][part], of x′; 0 without retained statistics
    u32 voxels;
    u32 unused;
};

KERNEL(augment_gamma, 256, AugmentGammaArgs) {
    __shared__ Part shared[256];
    const GammaTask task = args.tasks[blockIdx.y];
    const Statistics before = args.before[blockIdx.y];
    const float low = before.low, range = before.high - before.low;
    if (!(range > 0.0f)) return;
    // The old mean becomes a number near the new one, which is what the sums need.
    const float middle = (static_cast<float>(before.mean) - low) / range;
    Part part = nothing(power(middle, task.exponent) * range + low);
    const u32 begin = blockIdx.x * part_voxels + threadIdx.x;
    const u32 end = blockIdx.x * part_voxels + part_voxels < args.voxels ? blockIdx.x * part_voxels + part_voxels : args.voxels;
    for (u32 v = begin; v < end; v += 256) {
        const float x = power((task.sign * task.values[v] - low) / range, task.exponent) * range + low;
        count_in(part, x);
        task.values[v] = args.parts ? x : task.sign * x;
    }
    if (!args.parts) return;
    part = join_block(part, shared);
    if (threadIdx.x == 0) args.parts[blockIdx.y * gridDim.x + blockIdx.x] = part;
}

struct AugmentRestoreArgs {
    const GammaTask* tasks;
    const Statistics* before;
    const Statistics* after;
    u32 voxels;
    u32 unused;
};

KERNEL(augment_restore, 256, AugmentRestoreArgs) {
    const GammaTask task = args.tasks[blockIdx.y];
    const Statistics before = args.before[blockIdx.y], after = args.after[blockIdx.y];
    if (!(before.high - before.low > 0.0f)) return;
    const double factor = after.deviation > 0.0 ? before.deviation / after.deviation : 1.0;
    UNROLL for (u32 i = 0; i < 4; i++) {
        const u32 v = blockIdx.x * 1024 + i * 256 + threadIdx.x;
        if (v >= args.voxels) return;
        const double x = task.values[v];
        task.values[v] = task.sign * static_cast<float>((x - after.mean) * factor + before.mean);
    }
}

// ---- The last step: mirrored channels go to the batch, masked ones with zeros outside of the mask; the previous stage's
// classes become channels of 0 and 1; label −1 becomes background. Classes and label are mirrored already.
// blockIdx.y is the sample.

struct AugmentFinishArgs {
    const float* const* channels;  // [sample][channel]
    const u32* mirror;             // per sample: bit a for axis a (z, y, x)
    const u32* masked;             // per channel: 0 or 1
    const i16* raw_label;          // [sample][z][y][x]
    const i16* previous;           // the same; not read without classes
    float* image;                  // [sample][channel, then class][z][y][x]
    i16* label;                    // [sample][z][y][x]
    u32 shape[3];
    u32 voxels;
    u32 channel_count;
    u32 class_count;
};

KERNEL(augment_finish, 256, AugmentFinishArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const u32 mirror = args.mirror[blockIdx.y];
    const u64 sample = static_cast<u64>(blockIdx.y) * args.voxels;
    const u32 x = v % args.shape[2], row = v / args.shape[2];
    const u32 y = row % args.shape[1], z = row / args.shape[1];
    const u32 from_z = mirror & 1 ? args.shape[0] - 1 - z : z;
    const u32 from_y = mirror & 2 ? args.shape[1] - 1 - y : y;
    const u32 from_x = mirror & 4 ? args.shape[2] - 1 - x : x;
    const u32 from = (from_z * args.shape[1] + from_y) * args.shape[2] + from_x;
    const i16 label = args.raw_label[sample + v];
    float* to = args.image + sample * (args.channel_count + args.class_count) + v;
    for (u32 c = 0; c < args.channel_count; c++, to += args.voxels) {
        const bool masked = label < 0 && args.masked[c];
        *to = masked ? 0.0f : args.channels[blockIdx.y * args.channel_count + c][from];
    }
    args.label[sample + v] = label < 0 ? i16(0) : label;
    if (args.class_count == 0) return;
    const i32 previous = args.previous[sample + v];
    for (u32 k = 1; k <= args.class_count; k++, to += args.voxels) *to = previous == static_cast<i32>(k);
}
