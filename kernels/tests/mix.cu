// Kernels for the tests of the compiler and the driver.
#include "device.cuh"

struct ScaleArgs {
    const float* x;
    float* y;
    u32 count;
    float factor;
};

// y[i] = factor · x[i]; one thread per element.
KERNEL(scale, 128, ScaleArgs) {
    u32 i = blockIdx.x * 128 + threadIdx.x;
    if (i < args.count) args.y[i] = args.factor * args.x[i];
}

struct MultiplyArgs {
    const bf16* a;
    const bf16* b;
    float* d;
};

// d = a · b for 16 × 16 and 16 × 8 matrices, rows contiguous; one warp.
KERNEL(multiply, 32, MultiplyArgs) {
    __shared__ alignas(16) bf16 a[16 * 16];
    __shared__ alignas(16) bf16 b[16 * 8];
    u32 lane = threadIdx.x;
    copy_async16(a + 8 * lane, args.a + 8 * lane, true);
    if (lane < 16) copy_async16(b + 8 * lane, args.b + 8 * lane, true);
    copy_commit();
    copy_wait<0>();
    barrier();
    u32 left[4], right[4];
    float d[4] = {0, 0, 0, 0};
    load_matrix4(left, a + 16 * (lane % 16) + 8 * (lane / 16));
    load_matrix4_transposed(right, b + 8 * (lane % 16));
    multiply_add(d, left, right[0], right[1]);
    float* to = args.d + 8 * (lane / 4) + 2 * (lane % 4);
    to[0] = d[0];
    to[1] = d[1];
    to[64] = d[2];
    to[65] = d[3];
}
