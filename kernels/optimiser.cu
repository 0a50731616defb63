// A step of the optimiser over all parameters, flat: Adam (with AMSGrad's maximum) and SGD with momentum, as torch has
// them, and clipping of the gradient's norm.
//
// optimiser_norm: block b adds the squares of its range of the gradient, in f64; thread t takes elements t, t + 256, …
// optimiser_factor: one block adds the blocks' sums in order and writes the factor that clips.
// optimiser_adam, optimiser_sgd: a thread per parameter; reads and writes 4 bytes each of parameter and every moment,
// and of the gradient: 28 bytes for Adam, 36 with the maximum, 20 for SGD. The step's own numbers come from memory, so
// that a recorded step stays good.
#include "device.cuh"

// What differs from step to step; the host writes it.
struct Step {
    float size;   // Adam: learning rate / (1 − β₁ᵗ); SGD: learning rate
    float root;   // Adam: √(1 − β₂ᵗ)
    u32 first;    // SGD: there is no velocity yet
    float factor; // written by optimiser_factor
};

struct NormArgs {
    const float* gradient;
    double* sums;
    u32 count;
    u32 range;
};

constexpr u32 threads = 256;

DEVICE double block_sum(double value) {
    __shared__ double sums[threads];
    sums[threadIdx.x] = value;
    barrier();
    for (u32 half = threads / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        barrier();
    }
    return sums[0];
}

KERNEL(optimiser_norm, 256, NormArgs) {
    const u32 from = blockIdx.x * args.range;
    const u32 to = from + args.range < args.count ? from + args.range : args.count;
    double sum = 0;
    for (u32 i = from + threadIdx.x; i < to; i += threads) {
        const double g = args.gradient[i];
        sum += g * g;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) args.sums[blockIdx.x] = sum;
}

struct FactorArgs {
    const double* sums;
    Step* step;
    double limit;
    u32 count;
    u32 padding;
};

KERNEL(optimiser_factor, 256, FactorArgs) {
    double sum = 0;
    for (u32 i = threadIdx.x; i < args.count; i += threads) sum += args.sums[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        const double factor = args.limit / (sqrt(sum) + 1e-6);
        args.step->factor = factor < 1 ? static_cast<float>(factor) : 1.0f;
    }
}

struct UpdateArgs {
    float* values;
    float* gradient;
    float* first;
    float* second;
    float* largest;  // may be null
    const Step* step;
    u32 count;
    u32 clip;        // multiply the gradient by the factor, in place
    float decay;
    float one_beta1; // Adam: 1 − β₁; SGD: momentum
    float beta2;
    float one_beta2;
    float epsilon;
    u32 nesterov;
};

DEVICE float clipped(const UpdateArgs& args, u32 i) {
    float g = args.gradient[i];
    if (args.clip) {
        g *= args.step->factor;
        args.gradient[i] = g;
    }
    return g;
}

KERNEL(optimiser_adam, 256, UpdateArgs) {
    const u32 i = blockIdx.x * threads + threadIdx.x;
    if (i >= args.count) return;
    const float p = args.values[i];
    const float g = clipped(args, i) + args.decay * p;
    float m = args.first[i];
    m += args.one_beta1 * (g - m);
    args.first[i] = m;
    float v = args.second[i];
    v = v * args.beta2 + args.one_beta2 * g * g;
    args.second[i] = v;
    if (args.largest) {
        const float top = args.largest[i];
        // As Rust's max: a number wins over NaN.
        v = fmaxf(top, v);
        args.largest[i] = v;
    }
    args.values[i] = p - args.step->size * m / (sqrtf(v) / args.step->root + args.epsilon);
}

KERNEL(optimiser_sgd, 256, UpdateArgs) {
    const u32 i = blockIdx.x * threads + threadIdx.x;
    if (i >= args.count) return;
    const float p = args.values[i];
    const float g = clipped(args, i) + args.decay * p, momentum = args.one_beta1;
    const float velocity = args.step->first ? g : momentum * args.first[i] + g;
    args.first[i] = velocity;
    args.values[i] = p - args.step->size * (args.nesterov ? g + momentum * velocity : velocity);
}
