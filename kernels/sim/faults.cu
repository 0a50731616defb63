// Kernels with a mistake each, for the tests that show it to be found. Some make it only if an argument says so.
#include "device.cuh"

// One block; `at` is where, `to` has as many words as the block has threads.
struct FaultArgs {
    u32* to;
    u32 at;
    u32 zero;
};

DEVICE u32* shared_words() { return reinterpret_cast<u32*>(shared_memory()); }

// Each thread takes another's word from shared memory.
template <bool correct>
DEVICE void exchange(const FaultArgs& args) {
    shared_words()[threadIdx.x] = threadIdx.x;
    if (correct) barrier();
    args.to[64 * blockIdx.x + threadIdx.x] = shared_words()[threadIdx.x ^ args.at];
}

KERNEL(fault_none, 64, FaultArgs) { exchange<true>(args); }
KERNEL(fault_missing_barrier, 64, FaultArgs) { exchange<false>(args); }

// The second round overwrites what threads still read in the first.
KERNEL(fault_missing_second_barrier, 64, FaultArgs) {
    u32 sum = 0;
    for (u32 round = 0; round < 2; round++) {
        shared_words()[threadIdx.x] = threadIdx.x + round;
        barrier();
        sum += shared_words()[threadIdx.x ^ args.at];
    }
    args.to[threadIdx.x] = sum;
}

// As if the lanes of a warp went on in step.
KERNEL(fault_warp_synchrony, 32, FaultArgs) {
    for (u32 step = 16; step > 0; step /= 2) {
        if (step == 16) shared_words()[threadIdx.x] = threadIdx.x;
        if (threadIdx.x < step) shared_words()[threadIdx.x] += shared_words()[threadIdx.x + step];
    }
    args.to[threadIdx.x] = shared_words()[0];
}

// Blocks leave their number in the same place.
KERNEL(fault_blocks_collide, 32, FaultArgs) {
    if (threadIdx.x == 0) args.to[args.at] = blockIdx.x;
}

// All threads of all blocks count in one place: no fault.
KERNEL(fault_atomics, 64, FaultArgs) {
    atomic_add(args.to + args.at, 1);
    atomic_min(args.to + args.at + 1, threadIdx.x);
}

KERNEL(fault_atomic_and_plain, 64, FaultArgs) {
    if (threadIdx.x != 5) atomic_add(args.to, 1);
    if (threadIdx.x == 5) args.to[args.at] = 7;
}

// Static shared memory is taken to begin as zeros.
KERNEL(fault_uninitialised_shared, 32, FaultArgs) {
    __shared__ u32 sums[32];
    sums[threadIdx.x] += 1;
    args.to[threadIdx.x] = sums[threadIdx.x] + shared_words()[threadIdx.x];
}

KERNEL(fault_partial_barrier, 64, FaultArgs) {
    if (threadIdx.x < args.at) barrier();
    args.to[threadIdx.x] = 1;
}

KERNEL(fault_two_barriers, 64, FaultArgs) {
    if (threadIdx.x < args.at) {
        barrier();
    } else {
        barrier();
    }
    args.to[threadIdx.x] = 1;
}

KERNEL(fault_divergent_collective, 32, FaultArgs) {
    u32 value;
    if (threadIdx.x < args.at) {
        value = shuffle_xor(threadIdx.x, 1u);
    } else {
        value = warp_ballot(threadIdx.x > 3);
    }
    args.to[threadIdx.x] = value;
}

KERNEL(fault_collective_without_lanes, 32, FaultArgs) {
    if (threadIdx.x >= args.at) return;
    args.to[threadIdx.x] = shuffle_down(threadIdx.x, 1u);
}

KERNEL(fault_barrier_against_collective, 64, FaultArgs) {
    if (threadIdx.x == args.at) {
        barrier();
    } else {
        warp_barrier();
    }
    args.to[threadIdx.x] = 1;
}

// `to` has 32 words; reads word `at` + 31.
KERNEL(fault_global_read, 32, FaultArgs) { args.to[threadIdx.x] = args.to[threadIdx.x + args.at]; }

KERNEL(fault_global_write, 32, FaultArgs) { args.to[threadIdx.x + args.at] = 0; }

KERNEL(fault_null, 32, FaultArgs) { reinterpret_cast<u32*>(u64(args.zero))[args.at] = 0; }

// Locals that no stack holds.
DEVICE u32 deep(u32 depth, const FaultArgs& args) {
    u32 words[1024];
    for (u32 i = 0; i < 1024; i++) words[i] = args.to[(i + depth) % 32];
    if (depth == 0) return words[args.at];
    const u32 below = deep(depth - 1, args);
    return words[(below + args.at) % 1024] + below;
}

KERNEL(fault_deep, 32, FaultArgs) { args.to[threadIdx.x] = deep(args.at, args); }

KERNEL(fault_shared_overrun, 32, FaultArgs) {
    shared_words()[threadIdx.x + args.at] = 0;
    barrier();
    args.to[threadIdx.x] = shared_words()[threadIdx.x + args.at];
}

KERNEL(fault_static_overrun, 32, FaultArgs) {
    __shared__ u32 words[32];
    words[threadIdx.x + args.at] = threadIdx.x;
    barrier();
    args.to[threadIdx.x] = words[threadIdx.x];
}

KERNEL(fault_alignment, 32, FaultArgs) {
    if (threadIdx.x == 0) *reinterpret_cast<Vec16*>(args.to + args.at) = Vec16{};
}

KERNEL(fault_load_alignment, 32, FaultArgs) { args.to[threadIdx.x] = load16(args.to + args.at).word[0]; }

KERNEL(fault_load_from_shared, 32, FaultArgs) { args.to[threadIdx.x] = load16(shared_memory()).word[0]; }

KERNEL(fault_division, 32, FaultArgs) { args.to[threadIdx.x] = threadIdx.x / args.at; }

// Each thread copies four words and reads them back.
template <bool commits, bool waits, bool meets>
DEVICE void copy(const FaultArgs& args) {
    u32* own = shared_words() + 4 * threadIdx.x;
    copy_async16(own, args.to + 4 * threadIdx.x, true);
    if (commits) copy_commit();
    if (waits) copy_wait<0>();
    if (meets) barrier();
    args.to[4 * threadIdx.x] = shared_words()[4 * (threadIdx.x ^ args.at)];
}

KERNEL(fault_no_copy, 32, FaultArgs) { copy<true, true, true>(args); }
KERNEL(fault_copy_without_commit, 32, FaultArgs) { copy<false, true, true>(args); }
KERNEL(fault_copy_without_wait, 32, FaultArgs) { copy<true, false, true>(args); }
KERNEL(fault_copy_without_barrier, 32, FaultArgs) { copy<true, true, false>(args); }

KERNEL(fault_copy_alignment, 32, FaultArgs) { copy_async16(shared_words() + args.at, args.to, true); }

KERNEL(fault_copy_to_global, 32, FaultArgs) { copy_async16(args.to + 4 * args.at, args.to, true); }
