// A step of the optimiser over all parameters, flat: Adam (with AMSGrad's maximum) and SGD with momentum, as torch has
// them, and clipping of the gradient's norm.
//
// optimiser_norm: block b adds the squares of its range of the gradient, in f64. optimiser_factor: one block adds the
// blocks' sums in order and writes the factor that clips. optimiser_adam, optimiser_sgd: the update. A thread has four
// neighbours, 16 bytes of each vector; the last one may have fewer. The step's own numbers come from memory, so that a
// recorded step stays good.
//
// bf16 has the exponents of f32: gradients neither overflow nor vanish in it as they do in f16, so that no loss is scaled
// and no step is skipped.
//
// Bytes per parameter: 4 for the norm; then Adam 28, with the maximum 36, SGD 20, and 4 more where the gradient is
// clipped, in place.
#include "device.cuh"

// optimiser_begin: one thread writes what differs from step to step, from its arguments: a launch needs no copy that the
// host would wait for, and isn't part of a recording.
//
// What differs from step to step.
struct Step {
    float size;    // Adam: learning rate / (1 - beta1^t); SGD: learning rate
    float root;    // Adam: sqrt(1 - beta2^t)
    u32 first;     // SGD: there is no velocity yet
    float factor;  // written by optimiser_factor
};

struct BeginArgs {
    Step* step;
    float size;
    float root;
    u32 first;
    u32 padding;
};

struct NormArgs {
    const float* gradient;
    double* sums;
    u32 count;
    u32 range;  // elements of a block, a multiple of 4
};

struct FactorArgs {
    const double* sums;
    Step* step;
    double limit;
    u32 count;
    u32 padding;
};

struct UpdateArgs {
    float* values;
    float* gradient;
    float* first;
    float* second;
    float* largest;  // may be null
    const Step* step;
    const u32* idle;  // first and last (exclusive) of each range of parameters without a gradient
    u32 count;
    u32 idle_ranges;
    u32 clip;  // multiply the gradient by the factor, in place
    float decay;
    float one_beta1;  // Adam: 1 - beta1; SGD: momentum
    float beta2;
    float one_beta2;
    float epsilon;
    u32 nesterov;
    u32 padding;
};

constexpr u32 kThreads = 256;

// Four neighbours from `at` on, as many as there are; zeros beyond.
DEVICE void load4(float (&to)[4], const float* from, u32 at, u32 count) {
    if (at + 4 <= count) {
        const Vec16 v = *reinterpret_cast<const Vec16*>(from + at);
        UNROLL for (u32 i = 0; i < 4; i++) to[i] = bits_float(v.word[i]);
    } else {
        UNROLL for (u32 i = 0; i < 4; i++) to[i] = at + i < count ? from[at + i] : 0.0f;
    }
}

DEVICE void store4(float* to, const float (&from)[4], u32 at, u32 count) {
    if (at + 4 <= count) {
        Vec16 v;
        UNROLL for (u32 i = 0; i < 4; i++) v.word[i] = float_bits(from[i]);
        *reinterpret_cast<Vec16*>(to + at) = v;
    } else {
        UNROLL for (u32 i = 0; i < 4; i++) {
            if (at + i < count) to[at + i] = from[i];
        }
    }
}

// The sum over the block's threads, in one order.
DEVICE double block_sum(double value, double (&sums)[kThreads]) {
    sums[threadIdx.x] = value;
    barrier();
    for (u32 half = kThreads / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        barrier();
    }
    return sums[0];
}

KERNEL(optimiser_begin, 32, BeginArgs) {
    if (threadIdx.x == 0) *args.step = Step{args.size, args.root, args.first, 1.0f};
}

KERNEL(optimiser_norm, kThreads, NormArgs) {
    __shared__ double sums[kThreads];
    const u32 from = blockIdx.x * args.range;
    const u32 to = args.count - from < args.range ? args.count : from + args.range;
    double sum = 0.0;
    for (u32 at = from + 4 * threadIdx.x; at < to; at += 4 * kThreads) {
        float g[4];
        load4(g, args.gradient, at, to);
        UNROLL for (u32 i = 0; i < 4; i++) sum += static_cast<double>(g[i]) * g[i];
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) args.sums[blockIdx.x] = sum;
}

// torch.nn.utils.clip_grad_norm_. A norm that is not a number leaves the gradient as it is.
KERNEL(optimiser_factor, kThreads, FactorArgs) {
    __shared__ double sums[kThreads];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < args.count; i += kThreads) sum += args.sums[i];
    sum = block_sum(sum, sums);
    if (threadIdx.x > 0) return;
    const double factor = args.limit / (sqrt(sum) + 1e-6);
    args.step->factor = factor < 1.0 ? static_cast<float>(factor) : 1.0f;
}

DEVICE void load_clipped(float (&g)[4], const UpdateArgs& args, float factor, u32 at) {
    load4(g, args.gradient, at, args.count);
    if (!args.clip) return;
    UNROLL for (u32 i = 0; i < 4; i++) g[i] *= factor;
    store4(args.gradient, g, at, args.count);
}

// Which of four neighbours have no gradient, one bit each: torch leaves them as they are, weight decay and all.
DEVICE u32 idle_of(const UpdateArgs& args, u32 at) {
    u32 idle = 0;
    for (u32 range = 0; range < args.idle_ranges; range++) {
        const u32 from = args.idle[2 * range], to = args.idle[2 * range + 1];
        UNROLL for (u32 i = 0; i < 4; i++) {
            if (at + i >= from && at + i < to) idle |= 1u << i;
        }
    }
    return idle;
}

KERNEL(optimiser_adam, kThreads, UpdateArgs) {
    const u32 at = 4 * (blockIdx.x * kThreads + threadIdx.x);
    if (at >= args.count) return;
    const u32 idle = idle_of(args, at);
    const Step step = *args.step;
    float p[4], g[4], m[4], v[4], top[4];
    load4(p, args.values, at, args.count);
    load4(m, args.first, at, args.count);
    load4(v, args.second, at, args.count);
    if (args.largest) load4(top, args.largest, at, args.count);
    load_clipped(g, args, step.factor, at);
    UNROLL for (u32 i = 0; i < 4; i++) {
        if (idle >> i & 1) continue;
        g[i] += args.decay * p[i];
        m[i] += args.one_beta1 * (g[i] - m[i]);
        v[i] = v[i] * args.beta2 + args.one_beta2 * g[i] * g[i];
        // As Rust's max: a number wins over NaN.
        top[i] = args.largest ? fmaxf(top[i], v[i]) : v[i];
        p[i] -= step.size * m[i] / (sqrtf(top[i]) / step.root + args.epsilon);
    }
    store4(args.values, p, at, args.count);
    store4(args.first, m, at, args.count);
    store4(args.second, v, at, args.count);
    if (args.largest) store4(args.largest, top, at, args.count);
}

KERNEL(optimiser_sgd, kThreads, UpdateArgs) {
    const u32 at = 4 * (blockIdx.x * kThreads + threadIdx.x);
    if (at >= args.count) return;
    const u32 idle = idle_of(args, at);
    const Step step = *args.step;
    const float momentum = args.one_beta1;
    float p[4], g[4], velocity[4];
    load4(p, args.values, at, args.count);
    load4(velocity, args.first, at, args.count);
    load_clipped(g, args, step.factor, at);
    UNROLL for (u32 i = 0; i < 4; i++) {
        if (idle >> i & 1) continue;
        g[i] += args.decay * p[i];
        velocity[i] = step.first ? g[i] : momentum * velocity[i] + g[i];
        p[i] -= step.size * (args.nesterov ? g[i] + momentum * velocity[i] : velocity[i]);
    }
    store4(args.values, p, at, args.count);
    store4(args.first, velocity, at, args.count);
}
