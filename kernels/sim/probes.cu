// Kernels that do one device function each, to hold it against its definition: in the simulator and on a card.
#include "device.cuh"

// Values of `words` words for each thread.
template <u32 words>
DEVICE void read(u32 (&to)[words], const u32* from) {
    for (u32 i = 0; i < words; i++) to[i] = from[threadIdx.x * words + i];
}

template <u32 words>
DEVICE void write(u32* to, const u32 (&from)[words]) {
    for (u32 i = 0; i < words; i++) to[threadIdx.x * words + i] = from[i];
}

struct ProbeArgs {
    const u32* from;
    u32* to;
};

// `from`: the rows of four 8 × 8 matrices, four words each; `to`: four words of each lane.
KERNEL(probe_load_matrix4, 32, ProbeArgs) {
    u32 words[4];
    read(words, args.from);
    u32* row = reinterpret_cast<u32*>(shared_memory()) + 4 * threadIdx.x;
    for (u32 i = 0; i < 4; i++) row[i] = words[i];
    barrier();
    load_matrix4(words, row);
    write(args.to, words);
}

// The rows lie in static shared memory, 48 bytes apart, and are given in descending order.
KERNEL(probe_load_matrix4_transposed, 32, ProbeArgs) {
    alignas(16) __shared__ u32 rows[32][12];
    u32 words[4];
    read(words, args.from);
    u32* row = rows[31 - threadIdx.x];
    for (u32 i = 0; i < 4; i++) row[i] = words[i];
    warp_barrier();
    load_matrix4_transposed(words, row);
    write(args.to, words);
}

// `from`: four words of a, two of b and four of d for each lane; `to`: four of d.
KERNEL(probe_multiply_add, 32, ProbeArgs) {
    u32 words[10];
    read(words, args.from);
    const u32 a[4] = {words[0], words[1], words[2], words[3]};
    float d[4];
    for (u32 i = 0; i < 4; i++) d[i] = bits_float(words[6 + i]);
    multiply_add(d, a, words[4], words[5]);
    const u32 sums[4] = {float_bits(d[0]), float_bits(d[1]), float_bits(d[2]), float_bits(d[3])};
    write(args.to, sums);
}

// Two floats for each thread, to: each as bf16, both in a word, and back to floats.
KERNEL(probe_bf16, 128, ProbeArgs) {
    const u64 pair = u64(blockIdx.x) * 128 + threadIdx.x;
    const float low = bits_float(args.from[2 * pair]), high = bits_float(args.from[2 * pair + 1]);
    args.to[4 * pair] = to_bf16(low).bits | u32(to_bf16(high).bits) << 16;
    args.to[4 * pair + 1] = pack_bf16(low, high);
    args.to[4 * pair + 2] = float_bits(to_float(to_bf16(low)));
    args.to[4 * pair + 3] = float_bits(to_float(to_bf16(high)));
}

struct ProbeShuffleArgs {
    const u32* from;
    u32* to;
    u32 parameter;
    u32 zero;
};

// A word of each of 64 threads, to: shuffle_xor, shuffle_down and shuffle by the parameter, the lanes that have an odd
// word, and the same shuffles of 64-bit values whose halves are the word and its complement.
KERNEL(probe_shuffle, 64, ProbeShuffleArgs) {
    const u32 word = args.from[threadIdx.x];
    const u64 wide = u64(~word) << 32 | word;
    u32 results[10];
    results[0] = shuffle_xor(word, args.parameter);
    results[1] = shuffle_down(word, args.parameter);
    results[2] = shuffle(word, args.parameter);
    results[3] = warp_ballot(word % 2 == 1);
    const u64 wides[3] = {shuffle_xor(wide, args.parameter), shuffle_down(wide, args.parameter),
                          shuffle(wide, args.parameter)};
    for (u32 i = 0; i < 3; i++) {
        results[4 + 2 * i] = static_cast<u32>(wides[i]);
        results[5 + 2 * i] = static_cast<u32>(wides[i] >> 32);
    }
    write(args.to, results);
}

// Each thread copies four 16-byte pieces in two groups, of which one piece is not valid, and reads what its neighbour
// copied: the first group while the second may be under way, then the second.
KERNEL(probe_copy, 64, ProbeArgs) {
    u32* shared = reinterpret_cast<u32*>(shared_memory());
    for (u32 piece = 0; piece < 4; piece++) {
        const u32 word = (piece * 64 + threadIdx.x) * 4;
        copy_async16(shared + word, args.from + word, piece != 2);
        if (piece % 2 == 1) copy_commit();
    }
    const u32 neighbour = threadIdx.x ^ 1;
    copy_wait<1>();
    barrier();
    for (u32 piece = 0; piece < 4; piece++) {
        if (piece == 2) {
            copy_wait<0>();
            barrier();
        }
        for (u32 i = 0; i < 4; i++) args.to[(piece * 64 + threadIdx.x) * 4 + i] = shared[(piece * 64 + neighbour) * 4 + i];
    }
}

// Eight bf16 and eight floats of each thread, through vector loads and stores.
struct ProbeVectorArgs {
    const bf16* halves;
    const float* floats;
    bf16* to_halves;
    float* to_floats;
};

KERNEL(probe_vector, 32, ProbeVectorArgs) {
    float values[8];
    load8(values, args.halves + 8 * threadIdx.x);
    store8(args.to_floats + 8 * threadIdx.x, values);
    load8(values, args.floats + 8 * threadIdx.x);
    store8(args.to_halves + 8 * threadIdx.x, values);
    const Vec16 v = load16(args.halves + 8 * threadIdx.x);
    *reinterpret_cast<Vec16*>(args.to_floats + 256 + 4 * threadIdx.x) = v;
}

// Where each thread is: four words, at its place among all threads of the grid.
struct ProbeIndexArgs {
    u32* to;
};

KERNEL_RESIDENT(probe_index, 96, 2, ProbeIndexArgs) {
    const u64 block = (u64(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    u32* own = args.to + (block * blockDim.x + threadIdx.x) * 4;
    own[0] = threadIdx.x;
    own[1] = blockIdx.x;
    own[2] = blockIdx.y;
    own[3] = blockIdx.z;
}

// One float in, and what the functions of one float that CUDA has without a header make of it.
KERNEL(probe_functions, 64, ProbeArgs) {
    const u32 thread = blockIdx.x * 64 + threadIdx.x;
    const float x = bits_float(args.from[thread]);
    const float y[8] = {expf(x), logf(x), sqrtf(x), rsqrtf(x), fmaf(x, x, x), fabsf(x), tanhf(x), log1pf(x)};
    for (u32 i = 0; i < 8; i++) args.to[thread * 8 + i] = float_bits(y[i]);
}

// `words` words for each of 256 threads, summed over the block by shared memory and barriers, `rounds` times: for
// measuring the simulator.
struct ProbeRoundsArgs {
    u32* to;
    u32 rounds;
    u32 zero;
};

KERNEL(probe_threads, 256, ProbeRoundsArgs) { args.to[u64(blockIdx.x) * 256 + threadIdx.x] = threadIdx.x; }

KERNEL(probe_barriers, 256, ProbeRoundsArgs) {
    for (u32 round = 0; round < args.rounds; round++) barrier();
    args.to[u64(blockIdx.x) * 256 + threadIdx.x] = threadIdx.x;
}

KERNEL(probe_shuffles, 256, ProbeRoundsArgs) {
    u32 value = threadIdx.x;
    for (u32 round = 0; round < args.rounds; round++) value += shuffle_xor(value, 1u);
    args.to[u64(blockIdx.x) * 256 + threadIdx.x] = value;
}

KERNEL(probe_products, 256, ProbeRoundsArgs) {
    float d[4] = {};
    const u32 a[4] = {threadIdx.x, threadIdx.x, threadIdx.x, threadIdx.x};
    for (u32 round = 0; round < args.rounds; round++) multiply_add(d, a, threadIdx.x, threadIdx.x);
    args.to[u64(blockIdx.x) * 256 + threadIdx.x] = float_bits(d[0]);
}
