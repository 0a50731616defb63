// Convolution as an implicit matrix product on tensor cores:
//
//   output[v] = bias + sum over taps and input channels of weight · input[v · in_stride + tap]
//
// Convolution, its gradient towards the input, transposed convolution, its gradient and the 1 × 1 × 1 heads are all of
// this form. Output voxels v belong to classes (grid.y), one for each residue that a scatter's stride leaves; each has
// its own taps and writes voxels first + v · out_stride.
//
// A block takes items blockIdx.x, + gridDim.x, … of its class; an item is a tile of output voxels (a box of powers of
// two) by `blocks` blocks of 32 output channels. Each of four warps computes 16 · m_tiles rows, the tile's voxels; where
// shared memory is short, the tile has fewer and the rows behind them repeat others. Input channels come in chunks of 32, the last of a tensor of 8, 16 or 32. For each chunk the tile's input
// voxels, halo included, are copied to shared memory once, as [8-channel group][voxel][8], for all taps: a tap is an
// offset. The weights come in steps of so many slots (a slot: 8 input channels of one tap × 32 output channels). Copies
// for the next step and the next chunk run while the present step is multiplied.
//
// Float tensors are multiplied as sums of two bfloat16, x = high + low: high · high + low · high + high · low.
#include "device.cuh"

struct ConvolveClass {
    u32 first[3];    // output voxel of v = 0; all triples are z, y, x
    u32 extent[3];   // number of v
    u32 tiles[3];    // per sample
    i32 origin[3];   // input voxel where the halo of the tile at 0 begins
    u32 halo[3];     // input voxels of a tile
    u32 part;        // voxels of a row whose x has the same remainder by the stride: they lie together
    u32 divide_x, divide_y;  // ⌈2^31 / halo⌉
    u32 first_tap, taps;
};

struct ConvolveTap {
    u32 voxel;  // in the shared tile, from where a row's base voxel lies
    u32 index;  // in the packed weights
};

struct ConvolveArgs {
    const u8* input[2];  // [sample][z][y][x][8 · input_groups]
    u8* output[2];
    const u8* weights;  // [output block][tap and group, see pack.cu][32 rows][8] bf16
    const float* bias;  // per output channel; may be null
    float* statistics;  // [sample][tile][count, mean, sum of squares][channel]; may be null
    u64 weights_low;    // bytes from the weights to their low halves
    u32 input_groups[2], output_groups[2], output_channels[2];
    u32 input_size[3], output_size[3];
    u32 in_stride[3], out_stride[3];
    u32 tile_log[3];
    u32 batch;
    u32 columns;       // items side by side, which together have all output channels
    u32 plane;         // voxels from one group to the next in the shared tile: 2 modulo 8
    u32 tile_groups;   // most groups of a chunk
    u32 buffers;       // 1 or 2 shared tiles
    u32 step_slots;    // most slots of a step: a multiple of 4
    u32 packed_taps;
    u32 accumulate;    // add to the output
    u32 output_float;  // the output is float
    ConvolveClass classes[8];
    ConvolveTap taps[27];
};

template <bool split, u32 m_tiles, u32 blocks>
struct Convolution {
    static constexpr u32 warps = 4, threads = 32 * warps;
    static constexpr u32 halves = split ? 2 : 1;
    static constexpr u32 element = split ? 4 : 2;
    static constexpr u32 channels = 32 * blocks;

    // Where an item lies.
    struct Item {
        u32 column;  // of blocks of output channels
        u32 tile[3];
        u32 sample;
    };

    // Operands of a multiplication by 16 input channels (or 8 of two taps).
    struct Fragments {
        u32 a[halves][m_tiles][4];
        u32 b[halves][2 * blocks][4];
    };

    // A chunk of input channels of an item.
    struct Chunk {
        const u8* voxels;   // the sample's first voxel, at the chunk's first channel
        const u8* weights;  // of tap 0
        i32 first[3];       // input voxel
        u32 pitch;          // bytes
        u32 groups;         // in memory
        u32 log_groups;     // of those computed
    };

    const ConvolveArgs& args;
    const ConvolveClass& cls;
    u32* offsets;     // bytes in the shared tile of each slot, for chunks of 4, 2 and 1 groups
    float* sums;      // for statistics
    u8* tiles;        // [buffer][high, low][group][voxel]
    u8* stages;       // [2][high, low][block][slot]
    u32 tile_bytes;   // of a half
    u32 stage_bytes;  // of a half
    u32 items;
    u32 chunks[2];
    u32 packed_groups[2];
    u32 rows[m_tiles];  // bytes in the shared tile
    float sum[m_tiles][4 * blocks][4];

    static DEVICE u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }

    static DEVICE u32 divide(u32 n, u32 by) { return static_cast<u32>(static_cast<u64>(n) * by >> 31); }

    static DEVICE u32 log_groups(u32 groups) { return groups > 2 ? 2 : groups - 1; }

    // Groups of a tensor's chunks, the last one filled up to a power of two.
    static DEVICE u32 fill_groups(u32 groups) {
        const u32 whole = (groups - 1) / 4 * 4;
        return whole + (1u << log_groups(groups - whole));
    }

    DEVICE Convolution(const ConvolveArgs& args) : args(args), cls(args.classes[blockIdx.y]) {
        u8* shared = shared_memory();
        offsets = reinterpret_cast<u32*>(shared);
        shared += 16 * ceil_div(7 * 27 + 1, 4);
        sums = reinterpret_cast<float*>(shared);
        shared += 2 * 4 * warps * channels;
        tile_bytes = 16 * args.tile_groups * args.plane;
        tiles = shared;
        stages = shared + args.buffers * halves * tile_bytes;
        stage_bytes = 512 * blocks * args.step_slots;
        items = args.batch * cls.tiles[0] * cls.tiles[1] * cls.tiles[2] * args.columns;
        UNROLL for (u32 t = 0; t < 2; t++) {
            chunks[t] = ceil_div(args.input_groups[t], 4);
            packed_groups[t] = args.input_groups[t] ? fill_groups(args.input_groups[t]) : 0;
        }
        const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        UNROLL for (u32 i = 0; i < m_tiles; i++) {
            u32 v[3];
            split_row((warp * m_tiles + i) * 16 + lane % 16, v);
            const u32 row = v[0] * args.in_stride[0] * cls.halo[1] + v[1] * args.in_stride[1];
            rows[i] = 16 * (row * cls.part * args.in_stride[2] + v[2]);
        }
    }

    // Row to voxel z, y, x of the tile; whether it is the first row of that voxel.
    DEVICE bool split_row(u32 row, u32 (&v)[3]) const {
        const u32 log_z = args.tile_log[0], log_y = args.tile_log[1], log_x = args.tile_log[2];
        v[2] = row & ((1u << log_x) - 1);
        v[1] = row >> log_x & ((1u << log_y) - 1);
        v[0] = row >> (log_x + log_y) & ((1u << log_z) - 1);
        return row >> (log_x + log_y + log_z) == 0;
    }

    // Slots beyond the taps (of chunks with one group, which go in pairs) point to the first tap; their weights are 0.
    DEVICE void fill_offsets() {
        const u32 taps = cls.taps;
        for (u32 i = threadIdx.x; i < 7 * taps + 1; i += threads) {
            const u32 log = i < 4 * taps ? 2 : i < 6 * taps ? 1 : 0;
            const u32 slot = i - (log == 2 ? 0 : log == 1 ? 4 * taps : 6 * taps);
            const u32 tap = slot >> log, group = slot & ((1u << log) - 1);
            const u32 voxel = tap < taps ? args.taps[cls.first_tap + tap].voxel : 0;
            offsets[i] = 16 * (voxel + group * args.plane);
        }
    }

    DEVICE const u32* chunk_offsets(const Chunk& chunk) const {
        return offsets + (chunk.log_groups == 2 ? 0 : chunk.log_groups == 1 ? 4 * cls.taps : 6 * cls.taps);
    }

    DEVICE Item item_at(u32 index) const {
        Item item;
        item.column = index % args.columns;
        u32 rest = index / args.columns;
        item.tile[2] = rest % cls.tiles[2];
        rest /= cls.tiles[2];
        item.tile[1] = rest % cls.tiles[1];
        rest /= cls.tiles[1];
        item.tile[0] = rest % cls.tiles[0];
        item.sample = rest / cls.tiles[0];
        return item;
    }

    DEVICE Chunk chunk_at(const Item& item, u32 index) const {
        Chunk chunk;
        const u32 t = index < chunks[0] ? 0 : 1;
        const u32 local = 4 * (t ? index - chunks[0] : index);
        const u32 groups = args.input_groups[t];
        const u64 voxels = static_cast<u64>(args.input_size[0]) * args.input_size[1] * args.input_size[2];
        chunk.pitch = 8 * element * groups;
        chunk.voxels = args.input[t] + item.sample * voxels * chunk.pitch + local * 8 * element;
        chunk.groups = groups - local < 4 ? groups - local : 4;
        chunk.log_groups = log_groups(chunk.groups);
        const u32 group = item.column * blocks * (packed_groups[0] + packed_groups[1]) + (t ? packed_groups[0] : 0) + local;
        chunk.weights = args.weights + static_cast<u64>(group) * args.packed_taps * 512;
        UNROLL for (u32 a = 0; a < 3; a++) {
            chunk.first[a] = cls.origin[a] + static_cast<i32>((item.tile[a] << args.tile_log[a]) * args.in_stride[a]);
        }
        return chunk;
    }

    DEVICE u32 step_taps(const Chunk& chunk) const { return args.step_slots >> chunk.log_groups; }

    // At least one, which may have no tap.
    DEVICE u32 step_count(const Chunk& chunk) const {
        const u32 steps = ceil_div(cls.taps, step_taps(chunk));
        return steps ? steps : 1;
    }

    // Part `part` of `parts` of a chunk's voxels into shared memory; zeros outside of the tensor.
    DEVICE void copy_tile(const Chunk& chunk, u32 part, u32 parts, u8* tile) const {
        const u32 units = cls.halo[0] * cls.halo[1] * cls.halo[2] << chunk.log_groups;
        const u32 rounds = ceil_div(units, threads);
        const u32 end = rounds * (part + 1) / parts * threads;
        for (u32 unit = rounds * part / parts * threads + threadIdx.x; unit < end; unit += threads) {
            if (unit >= units) break;
            const u32 voxel = unit >> chunk.log_groups, group = unit & ((1u << chunk.log_groups) - 1);
            const u32 row = divide(voxel, cls.divide_x), x = voxel - row * cls.halo[2];
            const u32 z = divide(row, cls.divide_y), y = row - z * cls.halo[1];
            const u32 at[3] = {chunk.first[0] + z, chunk.first[1] + y, chunk.first[2] + x};
            const bool valid = at[0] < args.input_size[0] && at[1] < args.input_size[1] && at[2] < args.input_size[2] &&
                               group < chunk.groups;
            const u32 index = (at[0] * args.input_size[1] + at[1]) * args.input_size[2] + at[2];
            const u8* from = chunk.voxels + (valid ? static_cast<u64>(index) * chunk.pitch + group * 8 * element : 0);
            const u32 half_x = args.in_stride[2] == 2 ? x / 2 + x % 2 * cls.part : x;
            u8* to = tile + 16 * (group * args.plane + row * cls.part * args.in_stride[2] + half_x);
            if constexpr (split) {
                copy_split(to, from, valid);
            } else {
                copy_async16(to, from, valid);
            }
        }
    }

    // Eight floats into their high and low halves.
    DEVICE void copy_split(u8* to, const u8* from, bool valid) const {
        Vec16 high = {}, low = {};
        if (valid) {
            const Vec16 x[2] = {load16(from), load16(from + 16)};
            UNROLL for (u32 i = 0; i < 4; i++) {
                const float a = bits_float(x[i / 2].word[i % 2 * 2]), b = bits_float(x[i / 2].word[i % 2 * 2 + 1]);
                high.word[i] = pack_bf16(a, b);
                low.word[i] = pack_bf16(a - bits_float(high.word[i] << 16), b - bits_float(high.word[i] & 0xffff0000u));
            }
        }
        *reinterpret_cast<Vec16*>(to) = high;
        *reinterpret_cast<Vec16*>(to + tile_bytes) = low;
    }

    // A step's weights; zeros for slots beyond the taps.
    DEVICE void copy_weights(const Chunk& chunk, const Item& item, u32 step, u8* stage) const {
        const u32 first = step * step_taps(chunk);
        if (first >= cls.taps) return;
        const u32 taps = cls.taps - first < step_taps(chunk) ? cls.taps - first : step_taps(chunk);
        const u32 slots = ((taps << chunk.log_groups) + 1) / 2 * 2;
        const u64 block_bytes = static_cast<u64>(packed_groups[0] + packed_groups[1]) * args.packed_taps * 512;
        const u32 all_blocks = ceil_div(args.output_groups[0], 4) + ceil_div(args.output_groups[1], 4);
        for (u32 unit = threadIdx.x; unit < slots * 32; unit += threads) {
            const u32 slot = unit / 32, row = unit % 32;
            const u32 tap = slot >> chunk.log_groups, group = slot & ((1u << chunk.log_groups) - 1);
            const u32 index = tap < taps ? args.taps[cls.first_tap + first + tap].index : 0;
            const u8* from = chunk.weights + ((index << chunk.log_groups) + group) * 512 + row * 16;
            UNROLL for (u32 n = 0; n < blocks; n++) {
                const bool valid = tap < taps && item.column * blocks + n < all_blocks;
                UNROLL for (u32 h = 0; h < halves; h++) {
                    copy_async16(stage + h * stage_bytes + n * 512 * args.step_slots + unit * 16,
                                 valid ? from + n * block_bytes + h * args.weights_low : args.weights, valid);
                }
            }
        }
    }

    DEVICE void load(Fragments& f, const u8* voxels, const u8* weights) const {
        UNROLL for (u32 h = 0; h < halves; h++) {
            UNROLL for (u32 n = 0; n < blocks; n++) {
                UNROLL for (u32 j = 0; j < 2; j++) {
                    load_matrix4(f.b[h][2 * n + j], weights + h * stage_bytes + n * 512 * args.step_slots + j * 256);
                }
            }
            UNROLL for (u32 i = 0; i < m_tiles; i++) load_matrix4(f.a[h][i], voxels + rows[i] + h * tile_bytes);
        }
    }

    DEVICE void multiply_all(const Fragments& f) {
        UNROLL for (u32 i = 0; i < m_tiles; i++) {
            UNROLL for (u32 j = 0; j < 4 * blocks; j++) {
                multiply_add(sum[i][j], f.a[0][i], f.b[0][j / 2][j % 2 * 2], f.b[0][j / 2][j % 2 * 2 + 1]);
                if constexpr (split) {
                    multiply_add(sum[i][j], f.a[1][i], f.b[0][j / 2][j % 2 * 2], f.b[0][j / 2][j % 2 * 2 + 1]);
                    multiply_add(sum[i][j], f.a[0][i], f.b[1][j / 2][j % 2 * 2], f.b[1][j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }

    // Multiplies a step, two slots at a time; the next two are loaded meanwhile.
    DEVICE void multiply(const Chunk& chunk, u32 step, const u8* tile, const u8* stage) {
        const u32 lane = threadIdx.x % 32;
        const u32 first = step * step_taps(chunk);
        if (first >= cls.taps) return;
        const u32 taps = cls.taps - first < step_taps(chunk) ? cls.taps - first : step_taps(chunk);
        const u32 pairs = ((taps << chunk.log_groups) + 1) / 2;
        const u32* offset = chunk_offsets(chunk) + (first << chunk.log_groups) + lane / 16;
        const u8* weights = stage + lane / 8 % 2 * 512 + (lane / 16 * 8 + lane % 8) * 16;
        const auto load_pair = [&](Fragments& f, u32 pair) {
            const u32 p = pair < pairs ? pair : pairs - 1;
            load(f, tile + offset[2 * p], weights + 1024 * p);
        };
        Fragments even, odd;
        load_pair(even, 0);
        for (u32 pair = 0; pair < pairs; pair += 2) {
            load_pair(odd, pair + 1);
            multiply_all(even);
            if (pair + 1 == pairs) break;
            load_pair(even, pair + 2);
            multiply_all(odd);
        }
    }

    // A block of output channels of the item: its tensor, and this thread's first channel in it, of 8.
    DEVICE u32 output_tensor(const Item& item, u32 n, u32& channel) const {
        const u32 block = item.column * blocks + n;
        const u32 first_blocks = ceil_div(args.output_groups[0], 4);
        channel = (block < first_blocks ? block : block - first_blocks) * 32 + threadIdx.x % 4 * 8;
        return block < first_blocks ? 0 : 1;
    }

    DEVICE void start_sums(const Item& item) {
        UNROLL for (u32 n = 0; n < blocks; n++) {
            u32 channel;
            const u32 t = output_tensor(item, n, channel);
            const float* bias = args.bias + (t ? args.output_channels[0] : 0);
            UNROLL for (u32 c = 0; c < 8; c++) {
                const float start = args.bias && channel + c < args.output_channels[t] ? bias[channel + c] : 0.0f;
                UNROLL for (u32 i = 0; i < m_tiles; i++) {
                    sum[i][4 * n + c / 2][c % 2] = start;
                    sum[i][4 * n + c / 2][2 + c % 2] = start;
                }
            }
        }
    }

    // Whether a row of the tile is a voxel, and which output voxel.
    DEVICE bool output_voxel(const Item& item, u32 row, u64& voxel) const {
        u32 v[3];
        bool valid = split_row(row, v);
        voxel = item.sample;
        UNROLL for (u32 a = 0; a < 3; a++) {
            const u32 at = (item.tile[a] << args.tile_log[a]) + v[a];
            valid = valid && at < cls.extent[a];
            voxel = voxel * args.output_size[a] + cls.first[a] + at * args.out_stride[a];
        }
        return valid;
    }

    template <typename T>
    DEVICE void store(float (&value)[8], T* to, bool inside) const {
        if (inside) {
            if (args.accumulate) {
                float old[8];
                load8(old, to);
                UNROLL for (u32 c = 0; c < 8; c++) value[c] += old[c];
            }
            store8(to, value);
        }
    }

    DEVICE void finish(const Item& item) {
        const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        u32 valid = 0;
        UNROLL for (u32 r = 0; r < 2 * m_tiles; r++) {
            u64 voxel;
            const bool inside = output_voxel(item, warp * m_tiles * 16 + r * 8 + lane / 4, voxel);
            valid |= static_cast<u32>(inside) << r;
            UNROLL for (u32 n = 0; n < blocks; n++) {
                u32 channel;
                const u32 t = output_tensor(item, n, channel), pitch = 8 * args.output_groups[t];
                float value[8];
                UNROLL for (u32 c = 0; c < 8; c++) value[c] = sum[r / 2][4 * n + c / 2][r % 2 * 2 + c % 2];
                const u64 at = voxel * pitch + channel;
                if (args.output_float) {
                    store(value, reinterpret_cast<float*>(args.output[t]) + at, inside && channel < pitch);
                } else {
                    store(value, reinterpret_cast<bf16*>(args.output[t]) + at, inside && channel < pitch);
                    UNROLL for (u32 c = 0; c < 8; c++) value[c] = to_float(to_bf16(value[c]));
                }
                UNROLL for (u32 c = 0; c < 8; c++) sum[r / 2][4 * n + c / 2][r % 2 * 2 + c % 2] = value[c];
            }
        }
        if (args.statistics) statistics(item, valid);
    }

    // Sums over a warp's valid rows of (value − centre)^power for 32 channels, into shared memory.
    template <bool squares>
    DEVICE void column_sums(u32 n, u32 valid, const float (&centre)[8], float* into) const {
        const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        float total[8] = {};
        UNROLL for (u32 r = 0; r < 2 * m_tiles; r++) {
            UNROLL for (u32 c = 0; c < 8; c++) {
                const float value = sum[r / 2][4 * n + c / 2][r % 2 * 2 + c % 2] - centre[c];
                if (valid >> r & 1) total[c] += squares ? value * value : value;
            }
        }
        UNROLL for (u32 c = 0; c < 8; c++) {
            UNROLL for (u32 delta = 4; delta < 32; delta *= 2) total[c] += shuffle_xor(total[c], delta);
            if (lane < 4) into[warp * channels + n * 32 + lane * 8 + c] = total[c];
        }
    }

    static DEVICE float column_total(const float* from, u32 column) {
        float total = 0.0f;
        for (u32 w = 0; w < warps; w++) total += from[w * channels + column];
        return total;
    }

    DEVICE void statistics(const Item& item, u32 valid) {
        u32 count = 1;
        UNROLL for (u32 a = 0; a < 3; a++) {
            const u32 left = cls.extent[a] - (item.tile[a] << args.tile_log[a]), edge = 1u << args.tile_log[a];
            count *= left < edge ? left : edge;
        }
        const float share = 1.0f / static_cast<float>(count);
        float* squares = sums + warps * channels;
        const float zero[8] = {};
        UNROLL for (u32 n = 0; n < blocks; n++) column_sums<false>(n, valid, zero, sums);
        barrier();
        UNROLL for (u32 n = 0; n < blocks; n++) {
            float mean[8];
            UNROLL for (u32 c = 0; c < 8; c++) mean[c] = column_total(sums, n * 32 + threadIdx.x % 4 * 8 + c) * share;
            column_sums<true>(n, valid, mean, squares);
        }
        barrier();
        const u32 pitch = 8 * args.output_groups[0], channel = item.column * channels + threadIdx.x;
        if (threadIdx.x < channels && channel < pitch) {
            const u32 tile = ((item.sample * cls.tiles[0] + item.tile[0]) * cls.tiles[1] + item.tile[1]) * cls.tiles[2] +
                             item.tile[2];
            float* to = args.statistics + static_cast<u64>(tile) * 3 * pitch + channel;
            to[0] = static_cast<float>(count);
            to[pitch] = column_total(sums, threadIdx.x) * share;
            to[2 * pitch] = column_total(squares, threadIdx.x);
        }
    }

    DEVICE void run() {
        u32 index = blockIdx.x, chunk_index = 0;
        if (index >= items) return;
        const u32 chunk_count = cls.taps ? chunks[0] + chunks[1] : 1;
        fill_offsets();
        Item item = item_at(index);
        Chunk chunk = chunk_at(item, 0);
        u32 buffer = 0, stage = 0;
        copy_tile(chunk, 0, 1, tiles);
        copy_weights(chunk, item, 0, stages);
        copy_commit();
        start_sums(item);
        for (;;) {
            const bool last_chunk = chunk_index + 1 == chunk_count;
            const u32 next_index = last_chunk ? index + gridDim.x : index;
            const bool more = next_index < items;
            const Item next_item = last_chunk && more ? item_at(next_index) : item;
            const Chunk next = chunk_at(next_item, last_chunk ? 0 : chunk_index + 1);
            u8* tile = tiles + buffer * halves * tile_bytes;
            u8* next_tile = tiles + (args.buffers - 1 - buffer) * halves * tile_bytes;
            const u32 steps = step_count(chunk);
            for (u32 step = 0; step < steps; step++) {
                copy_wait<0>();
                barrier();
                u8* next_stage = stages + (1 - stage) * halves * stage_bytes;
                if (step + 1 < steps) {
                    copy_weights(chunk, item, step + 1, next_stage);
                } else if (more) {
                    copy_weights(next, next_item, 0, next_stage);
                }
                if (more && args.buffers == 2) copy_tile(next, step, steps, next_tile);
                copy_commit();
                multiply(chunk, step, tile, stages + stage * halves * stage_bytes);
                stage = 1 - stage;
            }
            if (last_chunk) {
                finish(item);
                if (!more) break;
                start_sums(next_item);
            }
            if (args.buffers == 2) {
                buffer = 1 - buffer;
            } else {
                barrier();
                copy_tile(next, 0, 1, tiles);
                copy_commit();
            }
            index = next_index;
            chunk_index = last_chunk ? 0 : chunk_index + 1;
            item = next_item;
            chunk = next;
        }
    }
};

KERNEL_RESIDENT(convolve_bf16_256x64, 128, 2, ConvolveArgs) { Convolution<false, 4, 2>(args).run(); }
KERNEL_RESIDENT(convolve_bf16_256x32, 128, 3, ConvolveArgs) { Convolution<false, 4, 1>(args).run(); }
KERNEL_RESIDENT(convolve_bf16_128x64, 128, 3, ConvolveArgs) { Convolution<false, 2, 2>(args).run(); }
KERNEL_RESIDENT(convolve_bf16_128x32, 128, 4, ConvolveArgs) { Convolution<false, 2, 1>(args).run(); }
KERNEL_RESIDENT(convolve_bf16_64x32, 128, 5, ConvolveArgs) { Convolution<false, 1, 1>(args).run(); }
KERNEL_RESIDENT(convolve_f32_256x64, 128, 2, ConvolveArgs) { Convolution<true, 4, 2>(args).run(); }
KERNEL_RESIDENT(convolve_f32_256x32, 128, 3, ConvolveArgs) { Convolution<true, 4, 1>(args).run(); }
KERNEL_RESIDENT(convolve_f32_128x64, 128, 3, ConvolveArgs) { Convolution<true, 2, 2>(args).run(); }
KERNEL_RESIDENT(convolve_f32_128x32, 128, 4, ConvolveArgs) { Convolution<true, 2, 1>(args).run(); }
KERNEL_RESIDENT(convolve_f32_64x32, 128, 5, ConvolveArgs) { Convolution<true, 1, 1>(args).run(); }
