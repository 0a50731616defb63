// All that a kernel may use beyond plain C++: the only file that kernels include. They include no CUDA header, so that
// the run-time compiler needs nothing but itself; the same names exist in the simulator (sim/), which runs the
// unmodified kernels on a CPU.
//
// A kernel is `KERNEL(name, threads, Args) { ... }`: one-dimensional blocks of `threads` threads and one argument
// struct `args`, whose twin in Rust has the same fields in the same order. Threads find themselves by threadIdx.x,
// blockIdx.{x,y,z} and gridDim.{x,y,z}. Warp operations are reached by all 32 lanes.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// bfloat16 as bits: the upper half of a float.
struct bf16 {
    u16 bits;
};

// Sixteen bytes that are loaded and stored at once; pointers to it are aligned to 16.
struct alignas(16) Vec16 {
    u32 word[4];
};

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")

#define KERNEL(name, threads, Args) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args args)

// As KERNEL, for at least `blocks` blocks on a multiprocessor: bounds the registers.
#define KERNEL_RESIDENT(name, threads, blocks, Args) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args args)

// The block's dynamic shared memory.
DEVICE u8* shared_memory() {
    extern __shared__ __align__(128) u8 block_shared_memory[];
    return block_shared_memory;
}

// All threads of the block; what they wrote before, all read after.
DEVICE void barrier() { __syncthreads(); }

// The lanes of a warp; what they wrote to memory before, all read after.
DEVICE void warp_barrier() { __syncwarp(); }

template <typename T>
DEVICE T shuffle_xor(T value, u32 lane_mask) {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

// The value of lane `lane + delta`; the upper `delta` lanes keep their own.
template <typename T>
DEVICE T shuffle_down(T value, u32 delta) {
    return __shfl_down_sync(0xffffffffu, value, delta);
}

// The value of lane `lane`.
template <typename T>
DEVICE T shuffle(T value, u32 lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}

DEVICE u32 warp_ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

// How many bits are set.
DEVICE u32 count_bits(u32 x) { return __popc(x); }

// A value that others change by atomics meanwhile.
DEVICE u32 atomic_load(const u32* at) {
    u32 value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at));
    return value;
}

// The smaller of the old value and `value` takes its place; gives the old one. Whole numbers only: what is in memory in
// the end depends on no order.
DEVICE u32 atomic_min(u32* at, u32 value) { return atomicMin(at, value); }

// Adds, and gives the old value.
DEVICE u32 atomic_add(u32* at, u32 value) { return atomicAdd(at, value); }

DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<u32>(x.bits) << 16); }

// Rounded to nearest, ties to even.
DEVICE bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two bf16 in one word, the first in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

DEVICE u32 float_bits(float x) { return __float_as_uint(x); }
DEVICE float bits_float(u32 x) { return __uint_as_float(x); }

// Sixteen bytes through the read-only path.
DEVICE Vec16 load16(const void* from) {
    Vec16 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(from));
    return v;
}

DEVICE u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes from global to shared memory behind the thread's back; zeros if not `valid`, then `from` is not
// read. Both aligned to 16.
DEVICE void copy_async16(void* to_shared, const void* from, bool valid) {
    u32 bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from), "r"(bytes)
                 : "memory");
}

// Ends a group of copies of this thread.
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of this thread's groups are under way. Others see the data after a barrier.
template <int pending>
DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8 × 8 matrices of 16-bit elements. Lane 8 i + r gives the address (shared, aligned to 16) of row r of matrix i;
// lane l receives in word i elements 2 (l % 4) and + 1 of row l / 4.
DEVICE void load_matrix4(u32 (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// As load_matrix4, transposed: lane l receives rows 2 (l % 4) and + 1 of column l / 4.
DEVICE void load_matrix4_transposed(u32 (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a · b, 16 × 8 += 16 × 16 · 16 × 8, f32 += bf16 · bf16 (PTX mma.m16n8k16). With g = lane / 4 and t = lane % 4:
// a[0]: row g, columns 2t, 2t + 1; a[1]: row g + 8; a[2]: row g, columns 2t + 8, + 9; a[3]: row g + 8 of those;
// b[0]: rows 2t, 2t + 1 of column g; b[1]: rows 2t + 8, + 9; d[0], d[1]: row g, columns 2t, 2t + 1; d[2], d[3]: row g + 8.
DEVICE void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else
#include "sim/device.h"
#endif

// Eight neighbouring channels of a voxel: 16 bytes of bf16 or 32 of float, aligned to 16.
DEVICE void load8(float (&to)[8], const bf16* from) {
    const Vec16 v = *reinterpret_cast<const Vec16*>(from);
    UNROLL for (u32 i = 0; i < 4; i++) {
        to[2 * i] = bits_float(v.word[i] << 16);
        to[2 * i + 1] = bits_float(v.word[i] & 0xffff0000u);
    }
}

DEVICE void load8(float (&to)[8], const float* from) {
    const Vec16 low = *reinterpret_cast<const Vec16*>(from);
    const Vec16 high = *reinterpret_cast<const Vec16*>(from + 4);
    UNROLL for (u32 i = 0; i < 4; i++) {
        to[i] = bits_float(low.word[i]);
        to[4 + i] = bits_float(high.word[i]);
    }
}

DEVICE void store8(bf16* to, const float (&from)[8]) {
    Vec16 v;
    UNROLL for (u32 i = 0; i < 4; i++) v.word[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
    *reinterpret_cast<Vec16*>(to) = v;
}

DEVICE void store8(float* to, const float (&from)[8]) {
    Vec16 low, high;
    UNROLL for (u32 i = 0; i < 4; i++) {
        low.word[i] = float_bits(from[i]);
        high.word[i] = float_bits(from[4 + i]);
    }
    *reinterpret_cast<Vec16*>(to) = low;
    *reinterpret_cast<Vec16*>(to + 4) = high;
}

// A pass over the voxels of [sample][voxel][pitch], pitch = 8 groups, by blocks of 256 threads. A block has `range`
// voxels of a sample (blockIdx.x; blockIdx.y is the sample), thread t channels 8 (t % groups) to + 7 of each `step`th
// of them: a block reads its range front to back, and what belongs to a channel stays in registers.
constexpr u32 kPassThreads = 256;

struct VoxelPass {
    u32 groups;
    u32 group;
    u32 lane;   // which of `step` voxels; `step` for threads that have none
    u32 step;   // voxels that the block has at once
    u32 first;  // the block's range
    u32 end;
    u64 base;  // of the sample and group in [sample][voxel][pitch]

    DEVICE VoxelPass(u32 voxels, u32 groups_, u32 range) : groups(groups_) {
        step = kPassThreads / groups;
        group = threadIdx.x % groups;
        lane = threadIdx.x / groups;
        lane = lane < step ? lane : step;
        first = blockIdx.x * range;
        end = voxels - first < range ? voxels : first + range;
        base = (static_cast<u64>(blockIdx.y) * voxels * groups + group) * 8;
    }

    // This thread's voxels go from here in steps of `step`.
    DEVICE u32 begin() const { return lane < step ? first + lane : end; }

    DEVICE u64 at(u32 voxel) const { return base + static_cast<u64>(voxel) * groups * 8; }
};

// A block's shared memory for pass_sums.
struct PassShared {
    double parts[kPassThreads];
    // The odd width spreads a warp's reads over the banks.
    float rows[8][kPassThreads + 4];
};

// Adds what the threads of a block have for their channels: to[channel] = the sum of values[channel % 8] over the
// block's voxels, in f64 and in one order. All threads of the block call it.
DEVICE void pass_sums(const VoxelPass& pass, const float (&values)[8], double* to, PassShared& shared) {
    barrier();
    UNROLL for (u32 c = 0; c < 8; c++) shared.rows[c][threadIdx.x] = values[c];
    barrier();
    const u32 pitch = 8 * pass.groups, count = pitch < kPassThreads ? kPassThreads / pitch : 1;
    for (u32 i = threadIdx.x; i < pitch * count; i += kPassThreads) {
        const u32 channel = i % pitch;
        const float* row = shared.rows[channel % 8] + channel / 8;
        double sum = 0.0;
        for (u32 lane = i / pitch; lane < pass.step; lane += count) sum += row[lane * pass.groups];
        if (count > 1) {
            shared.parts[i] = sum;
        } else {
            to[channel] = sum;
        }
    }
    if (count == 1) return;
    barrier();
    if (threadIdx.x < pitch) {
        double sum = 0.0;
        for (u32 i = 0; i < count; i++) sum += shared.parts[i * pitch + threadIdx.x];
        to[threadIdx.x] = sum;
    }
}
