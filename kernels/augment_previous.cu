// Augmentation of the previous stage's classes in a cascade: one class dilated or eroded by a ball, small connected
// components removed.
//
// A patch has `shape` voxels (z, y, x). blockIdx.y is the task, and a thread makes one voxel unless it says otherwise.
#include "device.cuh"

// ---- Morphology: every voxel within the radius of one that is (dilation) or isn't (erosion) a member. The squared distance
// to the nearest such voxel grows by one axis after the other; it is exact as far as the radius goes. Beyond the patch
// there is neither.

struct DilateTask {
    i16* classes;
    u8* member;  // 1 or 0
    i16* first;  // squared distance along x
    i16* second; // and y
    i32 type;    // the class
    i32 radius;
    u32 grow;    // what spreads: members (1) or the others (0)
    u32 unused;
};

struct AugmentDilateArgs {
    const DilateTask* tasks;
    u32 shape[3];
    u32 voxels;
};

// A squared distance beyond every radius.
constexpr i32 far_away = 20000;

KERNEL(augment_member, 256, AugmentDilateArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const DilateTask task = args.tasks[blockIdx.y];
    task.member[v] = task.classes[v] == task.type;
}

KERNEL(augment_near_x, 256, AugmentDilateArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const DilateTask task = args.tasks[blockIdx.y];
    const i32 n = static_cast<i32>(args.shape[2]), at = static_cast<i32>(v % args.shape[2]);
    const u8* row = task.member + (v - static_cast<u32>(at));
    i32 nearest = far_away;
    for (i32 d = 0; d <= task.radius && nearest == far_away; d++) {
        const bool here = (at - d >= 0 && row[at - d] == task.grow) || (at + d < n && row[at + d] == task.grow);
        if (here) nearest = d * d;
    }
    task.first[v] = static_cast<i16>(nearest);
}

// The smallest of distance² + step² along a line of n voxels that lie `inner` apart.
DEVICE i32 nearest_along(const i16* distances, u32 v, u32 n, u32 inner, i32 radius) {
    const i32 at = static_cast<i32>(v / inner % n);
    const i32 low = at < radius ? -at : -radius;
    const i32 high = static_cast<i32>(n) - 1 - at < radius ? static_cast<i32>(n) - 1 - at : radius;
    const i16* line = distances + (v - static_cast<u32>(at) * inner);
    i32 nearest = far_away;
    for (i32 d = low; d <= high; d++) {
        const i32 sum = line[static_cast<u32>(at + d) * inner] + d * d;
        nearest = sum < nearest ? sum : nearest;
    }
    return nearest;
}

KERNEL(augment_near_y, 256, AugmentDilateArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const DilateTask task = args.tasks[blockIdx.y];
    task.second[v] = static_cast<i16>(nearest_along(task.first, v, args.shape[1], args.shape[2], task.radius));
}

KERNEL(augment_near_z, 256, AugmentDilateArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const DilateTask task = args.tasks[blockIdx.y];
    const i32 nearest = nearest_along(task.second, v, args.shape[0], args.shape[1] * args.shape[2], task.radius);
    const i32 square = task.radius * task.radius, limit = square < far_away ? square : far_away - 1;
    task.member[v] = static_cast<u8>(nearest <= limit ? task.grow : 1 - task.grow);
}

// Voxels that the class gains leave theirs; those that it loses are background.
KERNEL(augment_take_members, 256, AugmentDilateArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const DilateTask task = args.tasks[blockIdx.y];
    if (task.member[v]) task.classes[v] = static_cast<i16>(task.type);
    else if (task.classes[v] == task.type) task.classes[v] = 0;
}

// ---- Connected components (a shared face, edge or corner) of all foreground classes at once. A voxel's parent is a voxel
// of its component with a smaller number, or itself; joining two components makes the smaller root the other's parent. So
// whatever the order, a component's root is its first voxel.

struct ComponentTask {
    const i16* classes;
    u32* parents;
    u32* sizes;  // of components, at their roots
};

struct AugmentComponentArgs {
    const ComponentTask* tasks;
    u32 shape[3];
    u32 voxels;
};

constexpr u32 no_voxel = 0xffffffffu;

KERNEL(augment_component_begin, 256, AugmentComponentArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const ComponentTask task = args.tasks[blockIdx.y];
    task.parents[v] = task.classes[v] > 0 ? v : no_voxel;
    task.sizes[v] = 0;
}

// Others may change parents meanwhile: what is read is an ancestor all the same.
DEVICE u32 root_of(const u32* parents, u32 v) {
    for (u32 parent = atomic_load(parents + v); parent != v; parent = atomic_load(parents + v)) v = parent;
    return v;
}

DEVICE void join(u32* parents, u32 a, u32 b) {
    while (true) {
        a = root_of(parents, a);
        b = root_of(parents, b);
        if (a == b) return;
        const u32 low = a < b ? a : b, high = a < b ? b : a;
        const u32 old = atomic_min(parents + high, low);
        if (old == high) return;
        // `high` was no root any more: its parent of that moment belongs to `low` too.
        a = old;
        b = low;
    }
}

KERNEL(augment_component_join, 256, AugmentComponentArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const ComponentTask task = args.tasks[blockIdx.y];
    const i16 type = task.classes[v];
    if (type <= 0) return;
    const i32 ny = static_cast<i32>(args.shape[1]), nx = static_cast<i32>(args.shape[2]);
    const i32 x = static_cast<i32>(v) % nx, y = static_cast<i32>(v) / nx % ny, z = static_cast<i32>(v) / nx / ny;
    // The 13 neighbours that come before it.
    for (i32 i = 0; i < 13; i++) {
        const i32 a = z + i / 9 - 1, b = y + i / 3 % 3 - 1, c = x + i % 3 - 1;
        if (a < 0 || b < 0 || c < 0 || b >= ny || c >= nx) continue;
        const u32 other = static_cast<u32>((a * ny + b) * nx + c);
        if (task.classes[other] == type) join(task.parents, v, other);
    }
}

// Counts the voxels of each component; those of a warp that belong to the same one at once.
KERNEL(augment_component_count, 256, AugmentComponentArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x, lane = threadIdx.x % 32;
    const ComponentTask task = args.tasks[blockIdx.y];
    const bool member = v < args.voxels && task.classes[v] > 0;
    const u32 root = member ? root_of(task.parents, v) : no_voxel;
    if (member) atomic_min(task.parents + v, root);
    u32 waiting = warp_ballot(member);
    while (waiting) {
        const u32 leader = count_bits((waiting & (0u - waiting)) - 1);
        const u32 chosen = shuffle(root, leader);
        const u32 same = warp_ballot(member && root == chosen);
        if (lane == leader) atomic_add(task.sizes + chosen, count_bits(same));
        waiting &= ~same;
    }
}

// ---- One of the small components of a class vanishes: number ⌊which · n⌋ of n, in the order of their roots. A block of
// `augment_removal_count` counts the small ones in a part of the patch; a warp per task finds the one; the rest is done
// voxel by voxel.

constexpr u32 removal_part = 4096;

struct RemovalTask {
    i16* classes;
    const u32* parents;
    const u32* sizes;
    u32* counts;  // per part
    u32* chosen;  // root of the one that vanishes, or no_voxel
    double which;
    double limit;  // voxels; smaller ones are small
    i32 type;
    u32 unused;
};

struct AugmentRemovalArgs {
    const RemovalTask* tasks;
    u32 voxels;
    u32 parts;
};

DEVICE bool small_root(const RemovalTask& task, u32 v, u32 voxels) {
    return v < voxels && task.parents[v] == v && task.classes[v] == task.type && task.sizes[v] < task.limit;
}

KERNEL(augment_removal_count, 256, AugmentRemovalArgs) {
    __shared__ u32 found[8];
    const RemovalTask task = args.tasks[blockIdx.y];
    u32 count = 0;
    for (u32 i = 0; i < removal_part; i += 256) {
        count += count_bits(warp_ballot(small_root(task, blockIdx.x * removal_part + i + threadIdx.x, args.voxels)));
    }
    if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = count;
    barrier();
    if (threadIdx.x > 0) return;
    u32 sum = 0;
    for (u32 warp = 0; warp < 8; warp++) sum += found[warp];
    task.counts[blockIdx.x] = sum;
}

KERNEL(augment_removal_choose, 32, AugmentRemovalArgs) {
    const RemovalTask task = args.tasks[blockIdx.y];
    u32 total = 0;
    for (u32 part = 0; part < args.parts; part++) total += task.counts[part];
    u32 rank = static_cast<u32>(task.which * total);
    rank = total > 0 && rank > total - 1 ? total - 1 : rank;
    u32 part = 0;
    while (part < args.parts && rank >= task.counts[part]) rank -= task.counts[part++];
    u32 chosen = no_voxel;
    for (u32 i = 0; i < removal_part && total > 0 && chosen == no_voxel; i += 32) {
        const u32 v = part * removal_part + i + threadIdx.x;
        u32 here = warp_ballot(small_root(task, v, args.voxels));
        const u32 count = count_bits(here);
        if (rank >= count) {
            rank -= count;
            continue;
        }
        for (; rank > 0; rank--) here &= here - 1;
        chosen = part * removal_part + i + count_bits((here & (0u - here)) - 1);
    }
    if (threadIdx.x == 0) *task.chosen = chosen;
}

KERNEL(augment_removal, 256, AugmentRemovalArgs) {
    const u32 v = blockIdx.x * 256 + threadIdx.x;
    if (v >= args.voxels) return;
    const RemovalTask task = args.tasks[blockIdx.y];
    const u32 chosen = *task.chosen;
    if (chosen != no_voxel && task.parents[v] == chosen) task.classes[v] = 0;
}
