// Weights from PyTorch's order to the order in which convolve.cu reads them, all layers and directions in one launch:
//
//   [block of 32 output channels][chunk of 32 input channels][tap][8-channel group of the chunk][32 rows][8] bf16
//
// Each tensor of a concatenation begins a block or chunk. The last chunk of a tensor has 1, 2 or 4 groups, the others
// have 4; channels beyond a tensor's are 0. Row 8 j + 2 t + i holds output channel 8 t + 2 j + i, so that a thread of
// convolve.cu, which finds columns 2 t and 2 t + 1 of four 8-column tiles j, has 8 neighbouring channels.
//
// A block packs one group of 8 input channels × 32 output channels, all taps: it reads runs of neighbouring weights
// into shared memory, and each warp then writes a tap's 512 bytes.
#include "device.cuh"

struct PackEntry {
    const float* weights;
    u8* packed;
    u64 low;  // bytes from there to the low halves of weights packed as sums of two; 0 if there are none
    u32 inputs[2], outputs[2];  // channels
    u32 input_step, output_step;  // floats from a channel to the next; one of them is `taps`
    u32 taps;         // at most 27
    u32 first_block;  // of the launch
};

struct PackArgs {
    const PackEntry* entries;
    const u32* entry_of_block;
};

DEVICE u32 pack_groups(u32 groups) { return groups > 2 ? 4 : groups; }

// Groups of a tensor, the last chunk filled up.
DEVICE u32 pack_tensor_groups(u32 channels) {
    const u32 whole = channels ? (channels - 1) / 32 * 4 : 0;
    return channels ? whole + pack_groups((channels + 7) / 8 - whole) : 0;
}

KERNEL(pack_weights, 256, PackArgs) {
    __shared__ float shared[32 * (8 * 27 + 1)];
    const PackEntry& entry = args.entries[args.entry_of_block[blockIdx.x]];
    const u32 taps = entry.taps, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 groups0 = pack_tensor_groups(entry.inputs[0]), groups1 = pack_tensor_groups(entry.inputs[1]);
    const u32 groups = groups0 + groups1, local = blockIdx.x - entry.first_block;
    const u32 block = local / groups, group = local % groups;

    // The block's channels: of the second tensor?, first in their tensor, how many there are.
    const bool in_second = group >= groups0, out_second = block >= (entry.outputs[0] + 31) / 32;
    const u32 in_first = 8 * (in_second ? group - groups0 : group);
    const u32 out_first = 32 * (out_second ? block - (entry.outputs[0] + 31) / 32 : block);
    const u32 inputs = in_second ? entry.inputs[1] : entry.inputs[0];
    const u32 in_count = in_first < inputs ? inputs - in_first : 0;
    const u32 out_count = (out_second ? entry.outputs[1] : entry.outputs[0]) - out_first;
    const float* from = entry.weights + static_cast<u64>(in_first + (in_second ? entry.inputs[0] : 0)) * entry.input_step +
                        static_cast<u64>(out_first + (out_second ? entry.outputs[0] : 0)) * entry.output_step;

    // Runs are output channels, each with 8 input channels × taps, or the other way round.
    const bool by_output = entry.input_step == taps;
    const u32 runs = by_output ? 32 : 8, length = (by_output ? 8 : 32) * taps;
    const u32 valid_runs = by_output ? out_count : in_count, valid_length = (by_output ? in_count : out_count) * taps;
    const u32 run_step = by_output ? entry.output_step : entry.input_step;
    for (u32 run = warp; run < runs; run += 8) {
        for (u32 i = lane; i < length; i += 32) {
            const bool valid = run < valid_runs && i < valid_length;
            shared[run * (length + 1) + i] = valid ? from[static_cast<u64>(run) * run_step + i] : 0.0f;
        }
    }
    barrier();

    const u32 chunk = in_first / 32 * 4, left = (in_second ? groups1 : groups0) - chunk;
    const u32 chunk_first = (in_second ? groups0 : 0) + chunk, chunk_groups = left < 4 ? left : 4;
    u8* to = entry.packed + (static_cast<u64>(block * groups + chunk_first) * taps + in_first / 8 - chunk) * 512 + lane * 16;
    const u32 channel = lane % 8 / 2 * 8 + lane / 8 * 2 + lane % 2;
    const float* value = shared + channel * (by_output ? length + 1 : taps);
    const u32 step = by_output ? taps : length + 1;
    for (u32 tap = warp; tap < taps; tap += 8) {
        Vec16 high, low;
        UNROLL for (u32 i = 0; i < 4; i++) {
            const float a = value[2 * i * step + tap], b = value[(2 * i + 1) * step + tap];
            high.word[i] = pack_bf16(a, b);
            low.word[i] = pack_bf16(a - bits_float(high.word[i] << 16), b - bits_float(high.word[i] & 0xffff0000u));
        }
        u8* slot = to + static_cast<u64>(tap) * chunk_groups * 512;
        *reinterpret_cast<Vec16*>(slot) = high;
        if (entry.low) *reinterpret_cast<Vec16*>(slot + entry.low) = low;
    }
}
