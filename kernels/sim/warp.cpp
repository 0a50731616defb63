// Matrix operations of a warp, as the PTX manual lays out their operands.
#include "machine.h"

namespace sim {

// Lane 8 i + r gives row r of matrix i. Lane l gets, in word i, elements 2 (l % 4) and + 1 of row l / 4; transposed,
// those of column l / 4.
void load_matrices(const RowAddress* rows, Words4* words, bool transposed) {
    for (uint32_t matrix = 0; matrix < 4; ++matrix) {
        uint16_t element[8][8];
        for (uint32_t row = 0; row < 8; ++row) memcpy(element[row], rows[matrix * 8 + row].row, 16);
        for (uint32_t lane = 0; lane < 32; ++lane) {
            const uint32_t line = lane / 4, pair = lane % 4 * 2;
            const uint32_t low = transposed ? element[pair][line] : element[line][pair];
            const uint32_t high = transposed ? element[pair + 1][line] : element[line][pair + 1];
            words[lane].word[matrix] = low | high << 16;
        }
    }
}

static float low_float(uint32_t word) {
    const uint32_t bits = word << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static float high_float(uint32_t word) {
    const uint32_t bits = word & 0xffff0000u;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// Products are exact in f32; they are added to the sum one by one, by rising k. The card adds in an order of its own.
void multiply_add_lanes(const MultiplyAdd* lanes, Floats4* sums) {
    float a[16][16], b[16][8], d[16][8];
    for (uint32_t lane = 0; lane < 32; ++lane) {
        const MultiplyAdd& in = lanes[lane];
        const uint32_t group = lane / 4, pair = lane % 4 * 2;
        for (uint32_t word = 0; word < 4; ++word) {
            const uint32_t row = group + word % 2 * 8, column = pair + word / 2 * 8;
            a[row][column] = low_float(in.a[word]);
            a[row][column + 1] = high_float(in.a[word]);
        }
        for (uint32_t word = 0; word < 2; ++word) {
            b[pair + word * 8][group] = low_float(in.b[word]);
            b[pair + word * 8 + 1][group] = high_float(in.b[word]);
        }
        for (uint32_t half = 0; half < 2; ++half) {
            d[group + half * 8][pair] = in.d[half * 2];
            d[group + half * 8][pair + 1] = in.d[half * 2 + 1];
        }
    }
    for (uint32_t row = 0; row < 16; ++row)
        for (uint32_t k = 0; k < 16; ++k)
            for (uint32_t column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    for (uint32_t lane = 0; lane < 32; ++lane) {
        const uint32_t group = lane / 4, pair = lane % 4 * 2;
        for (uint32_t half = 0; half < 2; ++half) {
            sums[lane].value[half * 2] = d[group + half * 8][pair];
            sums[lane].value[half * 2 + 1] = d[group + half * 8][pair + 1];
        }
    }
}

}  // namespace sim
