// Sums of ranges to those of a sample, [sample][range][column] to [sample][column]: the second level of every sum that
// VoxelPass begins. A block has eight columns (blockIdx.x) of a sample (blockIdx.y), 32 threads for each; a thread adds
// every 32nd range, then the threads' sums are added pairwise. Traffic: what pass_sums wrote, a thousandth of a pass.
#include "device.cuh"

struct RangeTotalsArgs {
    const double* partials;
    double* totals;
    u32 ranges;
    u32 columns;
};

KERNEL(range_totals, 256, RangeTotalsArgs) {
    constexpr u32 kParts = 32;
    __shared__ double sums[kParts][8];
    const u32 lane = threadIdx.x % 8, part = threadIdx.x / 8, column = 8 * blockIdx.x + lane;
    const double* at = args.partials + static_cast<u64>(blockIdx.y) * args.ranges * args.columns + column;
    double sum = 0.0;
    for (u32 i = part; i < args.ranges; i += kParts) sum += at[static_cast<u64>(i) * args.columns];
    sums[part][lane] = sum;
    for (u32 half = kParts / 2; half > 0; half /= 2) {
        barrier();
        if (part < half) sums[part][lane] += sums[part + half][lane];
    }
    if (part == 0) args.totals[static_cast<u64>(blockIdx.y) * args.columns + column] = sums[0][lane];
}
