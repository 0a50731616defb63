// Augmentation, what moves or mixes voxels: resampling through a map, the spline's prefilter, the displacement's smoothing,
// blur, low resolution.
//
// A patch has `shape` voxels (z, y, x); blockIdx.z or .y is a sample or a task, and a thread makes one voxel unless it
// says otherwise. Coordinates are double, as on the CPU: a label between two classes falls to the same side.
// Products and sums are rounded one by one, so that coordinates are the CPU's:
// nvrtc: --fmad=false
#include "device.cuh"

// ---- Resampling. In its frame, a patch that is transformed slice by slice has the axis across the slices first.

struct Sample {
    const float* image;         // of the case, [channel][z][y][x]
    const float* coefficients;  // its B-spline coefficients, for order 3
    const i16* label;           // [z][y][x]
    const i16* previous;        // [z][y][x], in a cascade
    const float* field;         // displacement [component][frame axes] in voxels, or 0; see `displacement`
    double centre[3];           // case coordinate of the patch's centre
    double matrix[9];           // coordinate = centre + matrix · (voxel − the patch's centre + displacement)
    i64 strides[3];             // of the case, by frame axis
    i64 channel;                // from channel to channel of the case
    i32 shape[3];               // of the case, by frame axis
    i32 lower[3];               // first voxel of the plain crop, by frame axis
    u32 mirror;                 // bit a: labels are mirrored along patch axis a
    u32 warped;                 // 0: the plain crop
};

struct Frame {
    u32 shape[3];  // of the patch, z, y, x
    u32 voxels;
    u32 across;  // the axis across the slices; 0 in a volume
    u32 planes;  // slice by slice: nothing is interpolated along the frame's first axis
};

DEVICE void voxel_of(const Frame& frame, u32 v, u32& z, u32& y, u32& x) {
    x = v % frame.shape[2];
    y = v / frame.shape[2] % frame.shape[1];
    z = v / frame.shape[2] / frame.shape[1];
}

// From z, y, x to the frame's axes.
template <typename T>
DEVICE void turn(const Frame& frame, T z, T y, T x, T (&to)[3]) {
    to[0] = frame.across == 0 ? z : frame.across == 1 ? y : x;
    to[1] = frame.across == 0 ? y : z;
    to[2] = frame.across == 2 ? y : x;
}

// In planes the field has components along the frame's axes 1 and 2 alone, the same for all planes.
DEVICE void displacement(const Frame& frame, const float* field, const u32 (&shape)[3], const u32 (&at)[3], double (&d)[3]) {
    const u32 plane = shape[1] * shape[2];
    const u32 in_plane = at[1] * shape[2] + at[2];
    if (frame.planes) {
        d[0] = 0.0;
        d[1] = field[in_plane];
        d[2] = field[plane + in_plane];
        return;
    }
    UNROLL for (u32 a = 0; a < 3; a++) d[a] = field[a * frame.voxels + at[0] * plane + in_plane];
}

// Case coordinate that patch voxel z, y, x reads.
DEVICE void coordinate(const Frame& frame, const Sample& sample, u32 z, u32 y, u32 x, double (&p)[3]) {
    u32 at[3], shape[3];
    turn(frame, z, y, x, at);
    turn(frame, frame.shape[0], frame.shape[1], frame.shape[2], shape);
    double d[3] = {0.0, 0.0, 0.0};
    if (sample.field) displacement(frame, sample.field, shape, at, d);
    UNROLL for (u32 a = 0; a < 3; a++) d[a] += static_cast<double>(at[a]) - 0.5 * (static_cast<double>(shape[a]) - 1.0);
    UNROLL for (u32 a = 0; a < 3; a++) {
        const double* m = sample.matrix + 3 * a;
        p[a] = sample.centre[a] + m[0] * d[0] + m[1] * d[1] + m[2] * d[2];
    }
}

DEVICE bool in_case(const Sample& s, i32 a, i32 b, i32 c) {
    return a >= 0 && b >= 0 && c >= 0 && a < s.shape[0] && b < s.shape[1] && c < s.shape[2];
}

DEVICE i64 place(const Sample& s, i32 a, i32 b, i32 c) { return a * s.strides[0] + b * s.strides[1] + c * s.strides[2]; }

template <typename T>
DEVICE T read(const Sample& s, const T* from, i32 a, i32 b, i32 c, T outside) {
    return in_case(s, a, b, c) ? from[place(s, a, b, c)] : outside;
}

// Far outside of any case counts as just outside, so that whole numbers fit.
DEVICE i32 floor_of(double v) {
    const double f = floor(v);
    return f < -2.0 ? -2 : f > 2147483000.0 ? 2147483000 : static_cast<i32>(f);
}

// Whether p lies within the voxel centres of the case.
DEVICE bool inside(const Sample& s, const double (&p)[3]) {
    bool yes = true;
    UNROLL for (u32 a = 0; a < 3; a++) yes = yes && p[a] >= 0.0 && p[a] <= static_cast<double>(s.shape[a] - 1);
    return yes;
}

// Whole voxel below, and the fraction.
struct Split {
    i32 whole[3];
    float t[3];
};

DEVICE Split split(const double (&p)[3]) {
    Split s;
    UNROLL for (u32 a = 0; a < 3; a++) {
        s.whole[a] = floor_of(p[a]);
        s.t[a] = static_cast<float>(p[a] - static_cast<double>(s.whole[a]));
    }
    return s;
}

// The corners of the cell around a point, the frame's first axis slowest.
template <typename T>
DEVICE void corners_of(const Sample& s, const T* from, const Split& at, bool planes, T outside, T (&corner)[8]) {
    const i32 a = at.whole[0], b = at.whole[1], c = at.whole[2];
    UNROLL for (u32 i = 0; i < 4; i++) corner[i] = read(s, from, a, b + static_cast<i32>(i >> 1), c + static_cast<i32>(i & 1), outside);
    UNROLL for (u32 i = 0; i < 4; i++) {
        corner[4 + i] =
            planes ? corner[i] : read(s, from, a + 1, b + static_cast<i32>(i >> 1), c + static_cast<i32>(i & 1), outside);
    }
}

DEVICE float between(float low, float high, float t) { return low + t * (high - low); }

DEVICE float linear(const Sample& s, const float* from, const Split& at, bool planes) {
    float v[8];
    corners_of(s, from, at, planes, 0.0f, v);
    UNROLL for (u32 i = 0; i < 4; i++) v[i] = between(v[2 * i], v[2 * i + 1], at.t[2]);
    const float front = between(v[0], v[1], at.t[1]), back = between(v[2], v[3], at.t[1]);
    return between(front, back, at.t[0]);
}

// Weights of the coefficients at floor − 1, floor, floor + 1, floor + 2.
DEVICE void cubic_weights(float t, float (&w)[4]) {
    const float s = 1.0f - t;
    w[0] = s * s * s * (1.0f / 6.0f);
    w[3] = t * t * t * (1.0f / 6.0f);
    w[1] = 2.0f / 3.0f - 0.5f * t * t * (2.0f - t);
    w[2] = 1.0f - w[0] - w[1] - w[3];
}

// Places of the four coefficients along an axis, mirrored about the centres of the first and last voxel.
DEVICE void taps(i32 whole, i32 n, i64 stride, i64 (&to)[4]) {
    UNROLL for (i32 i = 0; i < 4; i++) {
        i32 k = whole - 1 + i;
        k = k < 0 ? -k : k;
        k = k >= n ? 2 * (n - 1) - k : k;
        k = k < 0 ? -k : k;
        to[i] = n == 1 ? 0 : k * stride;
    }
}

// For points inside.
DEVICE float cubic(const Sample& s, const float* from, const Split& at, bool planes) {
    float wz[4], wy[4], wx[4], sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    i64 z[4], y[4], x[4];
    cubic_weights(at.t[0], wz);
    cubic_weights(at.t[1], wy);
    cubic_weights(at.t[2], wx);
    taps(at.whole[0], s.shape[0], s.strides[0], z);
    taps(at.whole[1], s.shape[1], s.strides[1], y);
    taps(at.whole[2], s.shape[2], s.strides[2], x);
    UNROLL for (u32 i = 0; i < 4; i++) {
        if (planes && i != 1) continue;
        float plane[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        UNROLL for (u32 j = 0; j < 4; j++) {
            UNROLL for (u32 k = 0; k < 4; k++) plane[k] += wy[j] * from[z[i] + y[j] + x[k]];
        }
        UNROLL for (u32 k = 0; k < 4; k++) sum[k] = planes ? plane[k] : sum[k] + wz[i] * plane[k];
    }
    return sum[0] * wx[0] + sum[1] * wx[1] + sum[2] * wx[2] + sum[3] * wx[3];
}

struct AugmentImageArgs {
    const Sample* samples;
    float* const* channels;  // [sample][channel]: where they go
    Frame frame;
    u32 first;  // sample of blockIdx.z = 0
    u32 channel_count;
};

// All channels of a patch: cropped, or by interpolation of this order with 0 beyond the outermost voxel centres (order 1:
// with zeros around the case).
template <u32 order>
DEVICE void make_image(const AugmentImageArgs& args) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.frame.voxels) return;
    const u32 index = args.first + blockIdx.z;
    const Sample& s = args.samples[index];
    u32 z, y, x;
    voxel_of(args.frame, v, z, y, x);
    float* const* to = args.channels + index * args.channel_count;
    if (!s.warped) {
        u32 at[3];
        turn(args.frame, z, y, x, at);
        const i32 a = s.lower[0] + static_cast<i32>(at[0]), b = s.lower[1] + static_cast<i32>(at[1]);
        const i32 c = s.lower[2] + static_cast<i32>(at[2]);
        for (u32 i = 0; i < args.channel_count; i++) to[i][v] = read(s, s.image + i * s.channel, a, b, c, 0.0f);
        return;
    }
    double p[3];
    coordinate(args.frame, s, z, y, x, p);
    const bool known = order == 1 || inside(s, p);
    if (order == 0) {
        UNROLL for (u32 a = 0; a < 3; a++) p[a] += 0.5;
    }
    const Split at = split(p);
    const float* from = order == 3 ? s.coefficients : s.image;
    for (u32 i = 0; i < args.channel_count; i++, from += s.channel) {
        float value = 0.0f;
        if (known && order == 0) value = from[place(s, at.whole[0], at.whole[1], at.whole[2])];
        if (known && order == 1) value = linear(s, from, at, args.frame.planes);
        if (known && order == 3) value = cubic(s, from, at, args.frame.planes);
        to[i][v] = value;
    }
}

KERNEL(augment_image_nearest, 256, AugmentImageArgs) { make_image<0>(args); }
KERNEL(augment_image_linear, 256, AugmentImageArgs) { make_image<1>(args); }
KERNEL(augment_image_cubic, 256, AugmentImageArgs) { make_image<3>(args); }

// The weight of a class among a cell's corners.
DEVICE double weight_of(const i16 (&corner)[8], const double (&weight)[8], i16 wanted) {
    double sum = 0.0;
    UNROLL for (u32 i = 0; i < 8; i++) sum += corner[i] == wanted ? weight[i] : 0.0;
    return sum;
}

// The class with the largest sum of weights; of equal ones the nearest voxel's, or the smallest if that is not among them.
DEVICE i16 heaviest(const i16 (&corner)[8], const float (&fraction)[3]) {
    double weight[8];
    UNROLL for (u32 i = 0; i < 8; i++) {
        double side[3];
        UNROLL for (u32 a = 0; a < 3; a++) {
            const double t = fraction[a];
            side[a] = i >> (2 - a) & 1 ? t : 1.0 - t;
        }
        weight[i] = side[0] * side[1] * side[2];
    }
    const u32 nearest_corner = (fraction[0] >= 0.5f ? 4 : 0) + (fraction[1] >= 0.5f ? 2 : 0) + (fraction[2] >= 0.5f ? 1 : 0);
    i16 nearest = corner[0];
    UNROLL for (u32 i = 1; i < 8; i++) nearest = i == nearest_corner ? corner[i] : nearest;
    i16 best = nearest;
    double most = weight_of(corner, weight, nearest);
    UNROLL for (u32 i = 0; i < 8; i++) {
        bool seen = corner[i] == best;
        UNROLL for (u32 j = 0; j < 8; j++) seen = seen || (j < i && corner[j] == corner[i]);
        if (seen) continue;
        const double w = weight_of(corner, weight, corner[i]);
        if (w > most || (w == most && best != nearest && corner[i] < best)) {
            best = corner[i];
            most = w;
        }
    }
    return best;
}

struct AugmentLabelArgs {
    const Sample* samples;
    i16* label;     // [sample][z][y][x]
    i16* previous;  // the same, in a cascade
    Frame frame;
    u32 first;
    u32 order;
};

// Classes of a patch, mirrored; −1 around the case. blockIdx.y: 0 the label, 1 the previous stage's.
KERNEL(augment_label, 256, AugmentLabelArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.frame.voxels) return;
    const u32 index = args.first + blockIdx.z;
    const Sample& s = args.samples[index];
    const i16* from = blockIdx.y == 0 ? s.label : s.previous;
    const i16 outside = -1;
    u32 z, y, x;
    voxel_of(args.frame, v, z, y, x);
    i16 value;
    if (!s.warped) {
        u32 at[3];
        turn(args.frame, z, y, x, at);
        value = read(s, from, s.lower[0] + static_cast<i32>(at[0]), s.lower[1] + static_cast<i32>(at[1]),
                     s.lower[2] + static_cast<i32>(at[2]), outside);
    } else {
        double p[3];
        coordinate(args.frame, s, z, y, x, p);
        if (args.order == 0) {
            value = read(s, from, floor_of(p[0] + 0.5), floor_of(p[1] + 0.5), floor_of(p[2] + 0.5), outside);
        } else {
            const Split at = split(p);
            i16 corner[8];
            corners_of(s, from, at, args.frame.planes, outside, corner);
            bool same = true;
            UNROLL for (u32 i = 1; i < 8; i++) same = same && corner[i] == corner[0];
            value = same ? corner[0] : heaviest(corner, at.t);
        }
    }
    if (s.mirror & 1) z = args.frame.shape[0] - 1 - z;
    if (s.mirror & 2) y = args.frame.shape[1] - 1 - y;
    if (s.mirror & 4) x = args.frame.shape[2] - 1 - x;
    i16* to = (blockIdx.y == 0 ? args.label : args.previous) + static_cast<u64>(index) * args.frame.voxels;
    to[(z * args.frame.shape[1] + y) * args.frame.shape[2] + x] = value;
}

// ---- From samples to cubic B-spline coefficients along one axis, in place, by the recursive filter of Unser (1999). Lines
// of n voxels lie `inner` apart: line l begins at l / inner · n · inner + l % inner.

constexpr float pole = -0.267949192431122706f;
// pole / (pole² − 1), and (1 − pole)(1 − 1 / pole).
constexpr float last_scale = 0.288675134594812882f;
constexpr float gain = 6.0f;

struct AugmentPrefilterArgs {
    float* values;
    u64 lines;
    u64 inner;
    u32 n;
    u32 unused;
};

// First coefficient of the causal pass: the geometric sum over the mirrored samples.
DEVICE float first_coefficient(const float* line, u64 stride, u32 n) {
    float sum = 0.0f;
    double weight = 1.0;
    const u32 period = 2 * (n - 1);
    for (u32 k = 0; k < 24; k++) {
        const u32 m = k % period;
        sum += static_cast<float>(weight) * line[(m < n ? m : period - m) * stride];
        weight *= -0.267949192431122706;
    }
    return sum;
}

// A thread filters a line whose neighbours' voxels lie beside its own.
KERNEL(augment_prefilter_columns, 256, AugmentPrefilterArgs) {
    const u64 index = static_cast<u64>(blockIdx.x) * 256 + threadIdx.x;
    if (index >= args.lines) return;
    float* line = args.values + index / args.inner * args.n * args.inner + index % args.inner;
    const u64 stride = args.inner;
    float c = first_coefficient(line, stride, args.n), before = c;
    line[0] = c;
    for (u32 k = 1; k < args.n; k++) {
        before = c;
        c = line[k * stride] + pole * c;
        line[k * stride] = c;
    }
    c = last_scale * (pole * before + c);
    line[(args.n - 1) * stride] = gain * c;
    for (u32 k = args.n - 1; k-- > 0;) {
        c = pole * (c - line[k * stride]);
        line[k * stride] = gain * c;
    }
}

// A block of one warp filters 32 rows (inner = 1), 32 × 32 voxels at a time: memory sees rows, each lane a row of its own.
struct Tile {
    float* values;  // of the block's first row
    u64 rows;       // that there are
    u32 n;
    float* shared;  // 32 rows of 33
};

DEVICE void load_tile(const Tile& tile, u32 begin) {
    warp_barrier();
    for (u32 r = 0; r < 32; r++) {
        const u32 x = begin + threadIdx.x;
        tile.shared[r * 33 + threadIdx.x] = r < tile.rows && x < tile.n ? tile.values[static_cast<u64>(r) * tile.n + x] : 0.0f;
    }
    warp_barrier();
}

DEVICE void store_tile(const Tile& tile, u32 begin) {
    warp_barrier();
    for (u32 r = 0; r < 32; r++) {
        const u32 x = begin + threadIdx.x;
        if (r < tile.rows && x < tile.n) tile.values[static_cast<u64>(r) * tile.n + x] = tile.shared[r * 33 + threadIdx.x];
    }
    warp_barrier();
}

KERNEL(augment_prefilter_rows, 32, AugmentPrefilterArgs) {
    __shared__ float shared[32 * 33];
    const u64 first = static_cast<u64>(blockIdx.x) * 32;
    const Tile tile = {args.values + first * args.n, args.lines - first, args.n, shared};
    float* own = shared + threadIdx.x * 33;
    const bool there = threadIdx.x < tile.rows;
    const u32 tiles = (args.n + 31) / 32;
    float c = there ? first_coefficient(tile.values + static_cast<u64>(threadIdx.x) * args.n, 1, args.n) : 0.0f, before = c;
    for (u32 t = 0; t < tiles; t++) {
        load_tile(tile, 32 * t);
        for (u32 i = 0; i < 32 && 32 * t + i < args.n; i++) {
            if (t > 0 || i > 0) {
                before = c;
                c = own[i] + pole * c;
            }
            own[i] = c;
        }
        store_tile(tile, 32 * t);
    }
    for (u32 t = tiles; t-- > 0;) {
        load_tile(tile, 32 * t);
        for (u32 i = 32; i-- > 0;) {
            const u32 k = 32 * t + i;
            if (k >= args.n) continue;
            c = k == args.n - 1 ? last_scale * (pole * before + c) : pole * (c - own[i]);
            own[i] = gain * c;
        }
        store_tile(tile, 32 * t);
    }
}

// ---- Smoothing along one axis by a long kernel, zeros outside: lines as in the prefilter, inner = 1 for rows. A block
// makes 64 neighbours on each of 32 lines (blockIdx.x: lines, .y: where on them), a thread 8 of them; the kernel's weights
// are taken in order, up to 32 per pass over shared memory.

struct AugmentSmoothArgs {
    const float* from;
    float* to;
    const float* weights;  // filled up with zeros to a multiple of 8
    u32 taps;              // that multiple
    u32 radius;
    u32 lines;
    u32 inner;
    u32 n;
    float scale;  // of the result
};

constexpr u32 smooth_out = 64, smooth_taps = 32, smooth_window = smooth_out + smooth_taps;

struct SmoothShared {
    float tile[smooth_window * 33];  // [position][line]
    float weights[smooth_taps];
};

template <bool rows>
DEVICE void smooth(const AugmentSmoothArgs& args, SmoothShared& shared) {
    float* const tile = shared.tile;
    float* const weights = shared.weights;
    const u32 lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const u32 first_line = blockIdx.x * 32, first_out = blockIdx.y * smooth_out;
    const u32 line = first_line + lane;
    const u64 column = static_cast<u64>(line / args.inner) * args.n * args.inner + line % args.inner;
    float sum[8] = {};
    for (u32 begin = 0; begin < args.taps; begin += smooth_taps) {
        barrier();
        if (threadIdx.x < smooth_taps) {
            const u32 tap = begin + threadIdx.x;
            weights[threadIdx.x] = tap < args.taps ? args.weights[tap] : 0.0f;
        }
        const i32 low = static_cast<i32>(first_out + begin) - static_cast<i32>(args.radius);
        for (u32 i = part; i < (rows ? 32 : smooth_window); i += 8) {
            for (u32 j = lane; j < (rows ? smooth_window : 32); j += 32) {
                const i32 at = low + static_cast<i32>(rows ? j : i);
                const bool there = at >= 0 && at < static_cast<i32>(args.n) && first_line + (rows ? i : j) < args.lines;
                const u64 place = rows ? static_cast<u64>(first_line + i) * args.n : column;
                tile[rows ? j * 33 + i : i * 33 + j] = there ? args.from[place + static_cast<u64>(at) * args.inner] : 0.0f;
            }
        }
        barrier();
        const u32 count = args.taps - begin < smooth_taps ? args.taps - begin : smooth_taps;
        for (u32 group = 0; group < count; group += 8) {
            float v[15];
            UNROLL for (u32 i = 0; i < 15; i++) v[i] = tile[(8 * part + group + i) * 33 + lane];
            UNROLL for (u32 k = 0; k < 8; k++) {
                UNROLL for (u32 j = 0; j < 8; j++) sum[j] += weights[group + k] * v[k + j];
            }
        }
    }
    if (!rows) {
        UNROLL for (u32 j = 0; j < 8; j++) {
            const u32 at = first_out + 8 * part + j;
            if (at < args.n && line < args.lines) args.to[column + static_cast<u64>(at) * args.inner] = args.scale * sum[j];
        }
        return;
    }
    barrier();
    UNROLL for (u32 j = 0; j < 8; j++) tile[(8 * part + j) * 33 + lane] = args.scale * sum[j];
    barrier();
    for (u32 i = part; i < 32; i += 8) {
        for (u32 j = lane; j < smooth_out; j += 32) {
            const u32 at = first_out + j;
            if (at < args.n && first_line + i < args.lines) {
                args.to[static_cast<u64>(first_line + i) * args.n + at] = tile[j * 33 + i];
            }
        }
    }
}

KERNEL(augment_smooth_columns, 256, AugmentSmoothArgs) {
    __shared__ SmoothShared shared;
    smooth<false>(args, shared);
}

KERNEL(augment_smooth_rows, 256, AugmentSmoothArgs) {
    __shared__ SmoothShared shared;
    smooth<true>(args, shared);
}

// ---- Blur along one axis of n voxels that lie `inner` apart, by a short kernel; beyond the patch lie the voxels mirrored
// about its outermost ones' centres. blockIdx.y is the task.

struct BlurTask {
    const float* from;
    float* to;
    const float* weights;  // 2 · radius + 1
    u32 radius;
    u32 unused;
};

struct AugmentBlurArgs {
    const BlurTask* tasks;
    u32 voxels;
    u32 n;
    u32 inner;
    u32 unused;
};

KERNEL(augment_blur, 256, AugmentBlurArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const BlurTask task = args.tasks[blockIdx.y];
    const i32 at = static_cast<i32>(v / args.inner % args.n), period = 2 * static_cast<i32>(args.n) - 2;
    const float* line = task.from + (v - static_cast<u32>(at) * args.inner);
    const i32 radius = static_cast<i32>(task.radius);
    float sum = 0.0f;
    for (i32 k = 0; k <= 2 * radius; k++) {
        i32 i = at + k - radius;
        i = (i < 0 ? -i : i) % period;
        i = i < period - i ? i : period - i;
        sum += task.weights[k] * line[static_cast<u32>(i) * args.inner];
    }
    task.to[v] = sum;
}

// ---- Low resolution: what is left of a channel after a grid of `small` voxels, down by the nearest voxel, back linearly.
// blockIdx.y is the task.

struct LowResolutionTask {
    const float* from;
    float* to;
    u32 small[3];
    u32 unused;
};

struct AugmentLowResolutionArgs {
    const LowResolutionTask* tasks;
    u32 shape[3];
    u32 voxels;
};

// The two voxels of the full grid that stand for the small grid's neighbours of position i, and the second one's weight.
DEVICE void neighbours(u32 i, u32 full, u32 small, u32& low, u32& high, float& t) {
    const float up = static_cast<float>(small) / static_cast<float>(full);
    const float down = static_cast<float>(full) / static_cast<float>(small);
    const float at = fmaxf((static_cast<float>(i) + 0.5f) * up - 0.5f, 0.0f);
    const u32 whole = static_cast<u32>(at);
    low = whole < small - 1 ? whole : small - 1;
    high = low + 1 < small - 1 ? low + 1 : small - 1;
    t = at - static_cast<float>(low);
    const u32 a = static_cast<u32>((static_cast<float>(low) + 0.5f) * down);
    const u32 b = static_cast<u32>((static_cast<float>(high) + 0.5f) * down);
    low = a < full - 1 ? a : full - 1;
    high = b < full - 1 ? b : full - 1;
}

DEVICE float blend(float low, float high, float t) { return low * (1.0f - t) + high * t; }

KERNEL(augment_low_resolution, 256, AugmentLowResolutionArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const LowResolutionTask task = args.tasks[blockIdx.y];
    u32 z[2], y[2], x[2];
    float tz, ty, tx;
    neighbours(v / args.shape[2] / args.shape[1], args.shape[0], task.small[0], z[0], z[1], tz);
    neighbours(v / args.shape[2] % args.shape[1], args.shape[1], task.small[1], y[0], y[1], ty);
    neighbours(v % args.shape[2], args.shape[2], task.small[2], x[0], x[1], tx);
    float line[2];
    UNROLL for (u32 k = 0; k < 2; k++) {
        float plane[2];
        UNROLL for (u32 j = 0; j < 2; j++) {
            const float front = task.from[(z[0] * args.shape[1] + y[j]) * args.shape[2] + x[k]];
            const float back = task.from[(z[1] * args.shape[1] + y[j]) * args.shape[2] + x[k]];
            plane[j] = blend(front, back, tz);
        }
        line[k] = blend(plane[0], plane[1], ty);
    }
    task.to[v] = blend(line[0], line[1], tx);
}
