// The simulator's half of device.cuh: the same names, run by the machine's own processor.
#pragma once

#include <math.h>

#include "machine.h"

#define DEVICE inline
#define UNROLL
// In a section of the file's own, so that a block finds the arrays as undefined as on a card.
#define __shared__ __attribute__((section(SIM_SHARED_SECTION))) thread_local

#define threadIdx (static_cast<const sim::Index3&>(sim::running.thread))
#define blockIdx (static_cast<const sim::Index3&>(sim::running.block))
#define blockDim (static_cast<const sim::Index3&>(sim::running.block_extent))
#define gridDim (static_cast<const sim::Index3&>(sim::running.grid))

#define KERNEL(name, threads, Args)                                                                        \
    static void name(const Args& args);                                                                    \
    static const sim::Kernel name##_entry{#name, threads, sizeof(Args),                                    \
                                          [](const void* args) { name(*static_cast<const Args*>(args)); }, \
                                          {__FILE__, __LINE__}, SIM_SHARED_BEGIN, SIM_SHARED_END};         \
    static void name([[maybe_unused]] const Args& __restrict__ args)

#define KERNEL_RESIDENT(name, threads, blocks, Args) KERNEL(name, threads, Args)

// Where a function was called, as its last two arguments by default.
#define SIM_CALLER const char *file = __builtin_FILE(), u32 line = __builtin_LINE()

DEVICE u8* shared_memory() { return sim::running.shared; }

DEVICE void barrier(SIM_CALLER) { sim::block_barrier({file, line}); }

struct SimNothing {};

DEVICE void warp_barrier(SIM_CALLER) {
    sim::collective<SimNothing, SimNothing>("warp_barrier", {file, line}, {},
                                            [](const SimNothing*, SimNothing*) { sim::warp_synchronised(); });
}

template <typename T>
struct SimFromLane {
    T value;
    u32 lane;
};

// Each lane's value of the lane it names.
template <typename T>
DEVICE T sim_shuffle(const char* operation, sim::Site site, T value, u32 lane) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    return sim::collective<SimFromLane<T>, T>(operation, site, {value, lane}, [](const SimFromLane<T>* in, T* out) {
        for (u32 lane = 0; lane < 32; ++lane) out[lane] = in[in[lane].lane].value;
    });
}

template <typename T>
DEVICE T shuffle_xor(T value, u32 lane_mask, SIM_CALLER) {
    const u32 from = sim::running.lane ^ lane_mask;
    return sim_shuffle("shuffle_xor", {file, line}, value, from < 32 ? from : sim::running.lane);
}

template <typename T>
DEVICE T shuffle_down(T value, u32 delta, SIM_CALLER) {
    const u32 from = sim::running.lane + delta;
    return sim_shuffle("shuffle_down", {file, line}, value, from < 32 ? from : sim::running.lane);
}

template <typename T>
DEVICE T shuffle(T value, u32 lane, SIM_CALLER) {
    return sim_shuffle("shuffle", {file, line}, value, lane % 32);
}

DEVICE u32 warp_ballot(bool predicate, SIM_CALLER) {
    return sim::collective<bool, u32>("warp_ballot", {file, line}, predicate, [](const bool* in, u32* out) {
        u32 mask = 0;
        for (u32 lane = 0; lane < 32; ++lane) mask |= u32(in[lane]) << lane;
        for (u32 lane = 0; lane < 32; ++lane) out[lane] = mask;
    });
}

DEVICE u32 count_bits(u32 x) { return __builtin_popcount(x); }

DEVICE u32 atomic_load(const u32* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

DEVICE u32 atomic_min(u32* at, u32 value) {
    u32 old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < old && !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

DEVICE u32 atomic_add(u32* at, u32 value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }

DEVICE u32 float_bits(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}

DEVICE float bits_float(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

DEVICE float to_float(bf16 x) { return bits_float(u32(x.bits) << 16); }

DEVICE bf16 to_bf16(float x) {
    if (x != x) return {0x7fff};
    const u32 bits = float_bits(x);
    return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

DEVICE u32 pack_bf16(float low, float high) { return to_bf16(low).bits | u32(to_bf16(high).bits) << 16; }

DEVICE Vec16 load16(const void* from, SIM_CALLER) {
    sim::check_aligned(from, "load16", {file, line});
    sim::check_global(from, "load16", {file, line});
    return *static_cast<const Vec16*>(from);
}

// The source is read at once, the destination is written by the copy_wait that waits for it.
DEVICE void copy_async16(void* to_shared, const void* from, bool valid, SIM_CALLER) {
    sim::check_aligned(to_shared, "copy_async16, destination", {file, line});
    sim::check_aligned(from, "copy_async16, source", {file, line});
    sim::check_shared(to_shared, "copy_async16, destination", {file, line});
    sim::check_global(from, "copy_async16, source", {file, line});
    Vec16 data{};
    if (valid) data = *static_cast<const Vec16*>(from);
    sim::copy_async(to_shared, &data);
}

DEVICE void copy_commit() { sim::copy_commit(); }

template <int pending>
DEVICE void copy_wait() {
    sim::copy_wait(pending);
}

template <bool transposed>
DEVICE void sim_load_matrix4(const char* operation, sim::Site site, u32 (&words)[4], const void* row) {
    sim::check_aligned(row, operation, site);
    sim::check_shared(row, operation, site);
    sim::note_read(row, 16);
    const auto loaded = sim::collective<sim::RowAddress, sim::Words4>(
        operation, site, {row},
        [](const sim::RowAddress* rows, sim::Words4* out) { sim::load_matrices(rows, out, transposed); });
    memcpy(words, loaded.word, sizeof words);
}

DEVICE void load_matrix4(u32 (&words)[4], const void* row, SIM_CALLER) {
    sim_load_matrix4<false>("load_matrix4", {file, line}, words, row);
}

DEVICE void load_matrix4_transposed(u32 (&words)[4], const void* row, SIM_CALLER) {
    sim_load_matrix4<true>("load_matrix4_transposed", {file, line}, words, row);
}

DEVICE void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, SIM_CALLER) {
    const auto sums = sim::collective<sim::MultiplyAdd, sim::Floats4>(
        "multiply_add", {file, line},
        sim::MultiplyAdd{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}}, sim::multiply_add_lanes);
    memcpy(d, sums.value, sizeof d);
}

// CUDA has these without a header.
DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <typename T>
DEVICE T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
DEVICE T max(T a, T b) {
    return a < b ? b : a;
}

#undef SIM_CALLER
