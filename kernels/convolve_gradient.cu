// Gradients of convolution weights and biases.
//
//   gradient[s][l][tap] = sum over small voxels v of small[v][s] · large[v · stride + tap][l]
//
// As a matrix product on tensor cores: 32 small channels s × 8 large channels of one tap (a slot) × voxels. A warp keeps
// a unit of 9 slots in registers, so that 12 warps take 27 taps × 32 large channels. A block takes a pair (chunk of 32 large channels,
// block of 32 small channels: grid.y) and a range of voxel tiles (grid.x), which it copies to shared memory as
// [8-channel group][voxel][8], the large one with its halo, the next while the present one is multiplied. A pair has at
// most 12 units; where it has fewer, the 12 warps share each tile's voxels. Every range and share has a partial sum of its
// own; a second kernel adds them in order. The sums depend on shapes alone, not on the card.
//
// Float tensors are multiplied as sums of two bfloat16, x = high + low: high · high + low · high + high · low.
#include "device.cuh"

struct OuterChunk {
    u64 partials;    // floats before the chunk's partial sums [small block][range, share][slot][32 small][8 large]
    u32 tensor;
    u32 first;       // 8-channel group in its tensor
    u32 groups;      // in memory
    u32 log_groups;  // of those computed
    u32 units, shares;
    u32 channel;     // first, in the concatenation
    u32 channels;
};

struct OuterArgs {
    const u8* large[2];  // [sample][z][y][x][8 · large_groups]
    const u8* small;
    float* partials;
    float* gradient;  // [small channel][large channel][tap]
    u32 large_groups[2], small_groups;
    u32 large_channels, small_channels;
    u32 large_size[3], small_size[3], stride[3];  // z, y, x
    u32 tile_log[3];
    u32 tiles[3];    // per sample
    i32 origin[3];   // large voxel where the halo of the tile at 0 begins
    u32 halo[3];     // large voxels of a tile
    u32 part;        // voxels of a row whose x has the same remainder by the stride: they lie together
    u32 divide_x, divide_y;  // ⌈2^31 / halo⌉
    u32 batch;
    u32 plane;       // voxels from one group to the next in the shared large tile: 2 modulo 8
    u32 tile_groups; // most groups of a chunk
    u32 buffers;     // 1 or 2 pairs of shared tiles
    u32 ranges;
    u32 taps;
    u32 chunk_count;
    u32 tap_voxel[28];  // of at most 27: in the shared large tile, from where a row's base voxel lies
    OuterChunk chunks[64];
};

template <bool split>
struct Outer {
    static constexpr u32 warps = 12, threads = 32 * warps, slots = 9, pairs = (slots + 1) / 2;
    static constexpr u32 halves = split ? 2 : 1;
    static constexpr u32 element = split ? 4 : 2;

    struct Tile {
        u32 first[3];  // small voxel
        u32 sample;
    };

    // Operands of a multiplication over 16 voxels.
    struct Fragments {
        u32 a[halves][2][4];
        u32 b[halves][pairs][4];
    };

    const OuterArgs& args;
    const OuterChunk& chunk;
    u32 block;        // of small channels
    u32 small_groups; // of those computed: 1, 2 or 4
    u32* bases;       // bytes in the shared large tile of each small voxel's base voxel
    u8* buffers;      // [buffer][large: high, low; small: high, low][group][voxel]
    u32 large_bytes, small_bytes;  // of a half
    u32 small_plane;
    u32 offset[pairs];  // bytes in the shared large tile of this lane's slot of each pair
    float sum[2][slots][4];

    static DEVICE u32 divide(u32 n, u32 by) { return static_cast<u32>(static_cast<u64>(n) * by >> 31); }

    static DEVICE u32 log_groups(u32 groups) { return groups > 2 ? 2 : groups - 1; }

    DEVICE Outer(const OuterArgs& args) : args(args), chunk(args.chunks[blockIdx.y % args.chunk_count]) {
        block = blockIdx.y / args.chunk_count;
        const u32 left = args.small_groups - 4 * block;
        small_groups = 1u << log_groups(left);
        if (left > 4) small_groups = 4;
        const u32 voxels = 1u << (args.tile_log[0] + args.tile_log[1] + args.tile_log[2]);
        small_plane = voxels + 2;
        large_bytes = 16 * args.tile_groups * args.plane;
        small_bytes = 16 * 4 * small_plane;
        u8* shared = shared_memory();
        bases = reinterpret_cast<u32*>(shared);
        buffers = shared + 4 * (voxels < 4 ? 4 : voxels);
    }

    DEVICE void fill_bases() {
        const u32 log_x = args.tile_log[2], log_y = args.tile_log[1], log_z = args.tile_log[0];
        for (u32 v = threadIdx.x; v < 1u << (log_x + log_y + log_z); v += threads) {
            const u32 x = v & ((1u << log_x) - 1), y = v >> log_x & ((1u << log_y) - 1), z = v >> (log_x + log_y);
            bases[v] = 16 * ((z * args.stride[0] * args.halo[1] + y * args.stride[1]) * args.part * args.stride[2] + x);
        }
    }

    DEVICE void fill_offsets(u32 unit) {
        UNROLL for (u32 p = 0; p < pairs; p++) {
            const u32 s = 2 * p + threadIdx.x % 32 / 16, slot = unit * slots + s;
            const u32 tap = slot >> chunk.log_groups, group = slot & ((1u << chunk.log_groups) - 1);
            offset[p] = s < slots && tap < args.taps ? 16 * (args.tap_voxel[tap] + group * args.plane) : 0;
        }
    }

    DEVICE Tile tile_at(u32 index) const {
        Tile tile;
        UNROLL for (u32 a = 3; a-- > 0;) {
            tile.first[a] = index % args.tiles[a] << args.tile_log[a];
            index /= args.tiles[a];
        }
        tile.sample = index;
        return tile;
    }

    // Eight channels of a voxel; zeros if not `valid`.
    DEVICE void copy(u8* to, u32 low, const u8* from, bool valid) const {
        if constexpr (split) {
            Vec16 high = {}, rest = {};
            if (valid) {
                const Vec16 x[2] = {load16(from), load16(from + 16)};
                UNROLL for (u32 i = 0; i < 4; i++) {
                    const float a = bits_float(x[i / 2].word[i % 2 * 2]), b = bits_float(x[i / 2].word[i % 2 * 2 + 1]);
                    high.word[i] = pack_bf16(a, b);
                    rest.word[i] =
                        pack_bf16(a - bits_float(high.word[i] << 16), b - bits_float(high.word[i] & 0xffff0000u));
                }
            }
            *reinterpret_cast<Vec16*>(to) = high;
            *reinterpret_cast<Vec16*>(to + low) = rest;
        } else {
            copy_async16(to, from, valid);
        }
    }

    DEVICE void copy_large(const Tile& tile, u8* to) const {
        const u32 log = chunk.log_groups, pitch = 8 * element * args.large_groups[chunk.tensor];
        const u32 units = args.halo[0] * args.halo[1] * args.halo[2] << log;
        const u64 voxels = static_cast<u64>(args.large_size[0]) * args.large_size[1] * args.large_size[2];
        const u8* from = args.large[chunk.tensor] + tile.sample * voxels * pitch + chunk.first * 8 * element;
        for (u32 unit = threadIdx.x; unit < units; unit += threads) {
            const u32 voxel = unit >> log, group = unit & ((1u << log) - 1);
            const u32 row = divide(voxel, args.divide_x), x = voxel - row * args.halo[2];
            const u32 z = divide(row, args.divide_y), y = row - z * args.halo[1];
            const u32 at[3] = {args.origin[0] + tile.first[0] * args.stride[0] + z,
                               args.origin[1] + tile.first[1] * args.stride[1] + y,
                               args.origin[2] + tile.first[2] * args.stride[2] + x};
            const bool valid = at[0] < args.large_size[0] && at[1] < args.large_size[1] && at[2] < args.large_size[2] &&
                               group < chunk.groups;
            const u32 index = (at[0] * args.large_size[1] + at[1]) * args.large_size[2] + at[2];
            const u32 half_x = args.stride[2] == 2 ? x / 2 + x % 2 * args.part : x;
            copy(to + 16 * (group * args.plane + row * args.part * args.stride[2] + half_x), large_bytes,
                 from + (valid ? static_cast<u64>(index) * pitch + group * 8 * element : 0), valid);
        }
    }

    DEVICE void copy_small(const Tile& tile, u8* to) const {
        const u32 log = log_groups(small_groups), pitch = 8 * element * args.small_groups;
        const u32 log_x = args.tile_log[2], log_y = args.tile_log[1];
        const u64 voxels = static_cast<u64>(args.small_size[0]) * args.small_size[1] * args.small_size[2];
        const u8* from = args.small + tile.sample * voxels * pitch + block * 32 * element;
        for (u32 unit = threadIdx.x; unit < (small_plane - 2) << log; unit += threads) {
            const u32 v = unit >> log, group = unit & ((1u << log) - 1);
            const u32 at[3] = {tile.first[0] + (v >> (log_x + log_y)), tile.first[1] + (v >> log_x & ((1u << log_y) - 1)),
                               tile.first[2] + (v & ((1u << log_x) - 1))};
            const bool valid = at[0] < args.small_size[0] && at[1] < args.small_size[1] && at[2] < args.small_size[2] &&
                               4 * block + group < args.small_groups;
            const u32 index = (at[0] * args.small_size[1] + at[1]) * args.small_size[2] + at[2];
            copy(to + 16 * (group * small_plane + v), small_bytes,
                 from + (valid ? static_cast<u64>(index) * pitch + group * 8 * element : 0), valid);
        }
    }

    // Of voxels 16 k …. Slots behind the unit's repeat some other.
    DEVICE void load(Fragments& f, const u8* large, const u8* small, u32 k) const {
        const u32 lane = threadIdx.x % 32;
        const u8* a_rows = small + 16 * (lane / 8 % 2 * small_plane + k * 16 + lane / 16 * 8 + lane % 8);
        const u8* b_rows = large + bases[k * 16 + lane / 8 % 2 * 8 + lane % 8];
        UNROLL for (u32 h = 0; h < halves; h++) {
            UNROLL for (u32 m = 0; m < 2; m++) {
                // Without groups 2 and 3 the second 16 rows repeat the first; nobody reads their sums.
                const u32 group = small_groups == 4 ? 2 * m : 0;
                load_matrix4_transposed(f.a[h][m], a_rows + 16 * group * small_plane + h * small_bytes);
            }
            UNROLL for (u32 p = 0; p < pairs; p++) {
                load_matrix4_transposed(f.b[h][p], b_rows + offset[p] + h * large_bytes);
            }
        }
    }

    DEVICE void multiply_all(const Fragments& f) {
        UNROLL for (u32 s = 0; s < slots; s++) {
            UNROLL for (u32 m = 0; m < 2; m++) {
                const u32 p = s / 2, b = s % 2 * 2;
                multiply_add(sum[m][s], f.a[0][m], f.b[0][p][b], f.b[0][p][b + 1]);
                if constexpr (split) {
                    multiply_add(sum[m][s], f.a[1][m], f.b[0][p][b], f.b[0][p][b + 1]);
                    multiply_add(sum[m][s], f.a[0][m], f.b[1][p][b], f.b[1][p][b + 1]);
                }
            }
        }
    }

    // The warp's share of a tile, 16 voxels at a time; the next 16 are loaded meanwhile, if registers allow.
    DEVICE void multiply(const u8* large, const u8* small, u32 share) {
        const u32 end = (small_plane - 2) / 16;
        if constexpr (split) {
            for (u32 k = share; k < end; k += chunk.shares) {
                Fragments f;
                load(f, large, small, k);
                multiply_all(f);
            }
        } else {
            if (share >= end) return;
            Fragments even, odd;
            load(even, large, small, share);
            for (u32 k = share; k < end; k += 2 * chunk.shares) {
                const u32 k1 = k + chunk.shares, k2 = k1 + chunk.shares;
                load(odd, large, small, k1 < end ? k1 : k);
                multiply_all(even);
                if (k1 >= end) break;
                load(even, large, small, k2 < end ? k2 : k);
                multiply_all(odd);
            }
        }
    }

    // Partial sums of a small block × the chunk.
    DEVICE float* partial(u32 index) const {
        const u64 at = static_cast<u64>(block) * args.ranges * chunk.shares + index;
        return args.partials + chunk.partials + at * chunk.units * slots * 256;
    }

    DEVICE void run() {
        const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const u32 unit = warp % chunk.units, share = warp / chunk.units;
        const bool busy = share < chunk.shares;
        const u32 tiles = args.batch * args.tiles[0] * args.tiles[1] * args.tiles[2];
        const u32 end = static_cast<u32>(static_cast<u64>(tiles) * (blockIdx.x + 1) / args.ranges);
        u32 index = static_cast<u32>(static_cast<u64>(tiles) * blockIdx.x / args.ranges);
        const u32 buffer_bytes = halves * (large_bytes + small_bytes);
        u32 buffer = 0;
        UNROLL for (u32 m = 0; m < 2; m++) {
            UNROLL for (u32 s = 0; s < slots; s++) {
                UNROLL for (u32 i = 0; i < 4; i++) sum[m][s][i] = 0.0f;
            }
        }
        fill_bases();
        fill_offsets(unit);
        const auto copy_tile = [&](u32 tile, u32 into) {
            const Tile at = tile_at(tile);
            copy_large(at, buffers + into * buffer_bytes);
            copy_small(at, buffers + into * buffer_bytes + halves * large_bytes);
            copy_commit();
        };
        copy_tile(index, 0);
        for (; index < end; index++) {
            copy_wait<0>();
            barrier();
            const u32 present = buffer;
            if (args.buffers == 2) {
                buffer = 1 - buffer;
                if (index + 1 < end) copy_tile(index + 1, buffer);
            }
            const u8* large = buffers + present * buffer_bytes;
            if (busy) multiply(large, large + halves * large_bytes, share);
            if (args.buffers == 1) {
                barrier();
                if (index + 1 < end) copy_tile(index + 1, 0);
            }
        }
        if (!busy) return;
        float* to = partial(blockIdx.x * chunk.shares + share) + unit * slots * 256 + lane / 4 * 8 + lane % 4 * 2;
        UNROLL for (u32 s = 0; s < slots; s++) {
            UNROLL for (u32 m = 0; m < 2; m++) {
                UNROLL for (u32 i = 0; i < 4; i++) to[s * 256 + m * 128 + i / 2 * 64 + i % 2] = sum[m][s][i];
            }
        }
    }
};

KERNEL(outer_bf16, 384, OuterArgs) { Outer<false>(args).run(); }
KERNEL(outer_f32, 384, OuterArgs) { Outer<true>(args).run(); }

// Adds the partial sums in their order: a block per slot of a pair (grid.x: slot and small block; grid.y: chunk), a
// thread per small and large channel.
KERNEL(outer_add, 256, OuterArgs) {
    const OuterChunk& chunk = args.chunks[blockIdx.y];
    const u32 slots = args.taps << chunk.log_groups, padded = chunk.units * 9;
    const u32 slot = blockIdx.x % (args.taps * 4), block = blockIdx.x / (args.taps * 4);
    if (slot >= slots) return;
    const u32 s = 32 * block + threadIdx.x / 8, tap = slot >> chunk.log_groups;
    const u32 l = 8 * (slot & ((1u << chunk.log_groups) - 1)) + threadIdx.x % 8;
    if (s >= args.small_channels || l >= chunk.channels) return;
    const u32 count = args.ranges * chunk.shares;
    const float* from = args.partials + chunk.partials + (static_cast<u64>(block) * count * padded + slot) * 256 + threadIdx.x;
    float sum = 0.0f;
    for (u32 i = 0; i < count; i++) sum += from[static_cast<u64>(i) * padded * 256];
    args.gradient[(static_cast<u64>(s) * args.large_channels + chunk.channel + l) * args.taps + tap] = sum;
}

// Sums of each channel over samples and voxels: blocks take ranges of voxels, a thread 8 neighbouring channels of every
// so many voxels of its block's range.
struct BiasGradientArgs {
    const u8* tensor;  // [voxel][8 · groups]
    float* partials;   // [range][8 · groups]
    float* gradient;   // [channel]
    u32 voxels;        // of all samples
    u32 groups;        // at most 256
    u32 channels;
    u32 ranges;
};

template <typename T>
DEVICE void bias_ranges(const BiasGradientArgs& args, float* sums) {
    const u32 lanes = 256 / args.groups, group = threadIdx.x % args.groups, lane = threadIdx.x / args.groups;
    const u32 end = static_cast<u32>(static_cast<u64>(args.voxels) * (blockIdx.x + 1) / args.ranges);
    u32 voxel = static_cast<u32>(static_cast<u64>(args.voxels) * blockIdx.x / args.ranges) + lane;
    float sum[8] = {};
    if (lane < lanes) {
        for (; voxel < end; voxel += lanes) {
            float value[8];
            load8(value, reinterpret_cast<const T*>(args.tensor) + (static_cast<u64>(voxel) * args.groups + group) * 8);
            UNROLL for (u32 c = 0; c < 8; c++) sum[c] += value[c];
        }
    }
    UNROLL for (u32 c = 0; c < 8; c++) sums[threadIdx.x * 8 + c] = sum[c];
    barrier();
    for (u32 c = threadIdx.x; c < 8 * args.groups; c += 256) {
        float total = 0.0f;
        for (u32 i = 0; i < lanes; i++) total += sums[i * 8 * args.groups + c];
        args.partials[blockIdx.x * 8 * args.groups + c] = total;
    }
}

KERNEL(bias_gradient_bf16, 256, BiasGradientArgs) {
    __shared__ float sums[256 * 8];
    bias_ranges<bf16>(args, sums);
}

KERNEL(bias_gradient_f32, 256, BiasGradientArgs) {
    __shared__ float sums[256 * 8];
    bias_ranges<float>(args, sums);
}


KERNEL(bias_gradient_add, 256, BiasGradientArgs) {
    const u32 c = blockIdx.x * 256 + threadIdx.x;
    if (c >= args.channels) return;
    float total = 0.0f;
    for (u32 i = 0; i < args.ranges; i++) total += args.partials[i * 8 * args.groups + c];
    args.gradient[c] = total;
}
