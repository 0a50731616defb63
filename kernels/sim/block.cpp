#include "block.h"

#include <cstdlib>

namespace sim {

__thread Running running;
__thread BlockRunner* runner;

void block_barrier(Site site) { runner->wait_at_barrier(site); }
bool arrive(const char* operation, Site site) { return runner->arrive(operation, site); }
void leave() { runner->leave(); }

static void stack_entry() {
    arrived_on_stack();
    runner->run_threads();
}

void BlockRunner::begin(const Launch& launch) {
    launch_ = &launch;
    error_.clear();
    failed_ = false;
    count_ = launch.kernel->threads;
    if (threads_.size() < count_) threads_.resize(count_);
    if (warps_.size() < (count_ + 31) / 32) warps_.resize((count_ + 31) / 32);
    shared_.allocate(launch);
    now_.launch_era = next_era();
    running.block_extent = {count_, 1, 1};
    running.grid = launch.grid;
    running.shared = shared_.begin();
    prepare_own(main_);
    signals_.begin();
    runner = this;
}

void BlockRunner::end() {
    runner = nullptr;
    signals_.end();
}

bool BlockRunner::run(Index3 block) {
    running.block = block;
    if (launch_->order == Order::random) {
        // A block's order depends on nothing but the seed and its place.
        const uint64_t index = (uint64_t(block.z) * launch_->grid.y + block.y) * launch_->grid.x + block.x;
        random_ = (launch_->seed + 1) * 0x9e3779b97f4a7c15ull ^ (index + 1) * 0xd1342543de82ef95ull;
    }
    now_.block_era = now_.era = next_era();
    finished_ = at_barrier_ = 0;
    for (uint32_t thread = 0; thread < count_; ++thread) {
        threads_[thread].stack = nullptr;
        threads_[thread].copies.clear();
    }
    runnable_warps_ = 0;
    for (uint32_t warp = 0; warp * 32 < count_; ++warp) {
        warps_[warp].arrived = warps_[warp].sync = 0;
        release_warp(warp);
    }
    shared_.forget();
    in_kernel_ = true;
    resume(static_cast<uint32_t>(pick()), main_, false);
    in_kernel_ = false;
    stacks_.reclaim();
    if (failed_) return false;
    if (finished_ < count_) {
        error_ = stuck();
    } else if (shared_.first_overrun() != SharedMemory::nowhere) {
        error_ = format("byte %zu of shared memory was written, the launch has %u, in block (%u, %u, %u)",
                        shared_.first_overrun(), launch_->shared_bytes, block.x, block.y, block.z);
    } else {
        return true;
    }
    failed_ = true;
    return false;
}

uint32_t BlockRunner::lanes_of(uint32_t warp) const {
    const uint32_t lanes = count_ - warp * 32;
    return lanes >= 32 ? ~0u : (1u << lanes) - 1;
}

void BlockRunner::become(uint32_t thread) {
    current_ = thread;
    running.thread = {thread, 0, 0};
    running.lane = thread % 32;
    running.exchange = warps_[thread / 32].exchange;
}

// The first that is set, counted from `from` on and around.
static uint32_t first_from(uint32_t mask, uint32_t from) {
    from &= 31;
    const uint32_t rotated = from ? mask >> from | mask << (32 - from) : mask;
    return (static_cast<uint32_t>(__builtin_ctz(rotated)) + from) & 31;
}

// The thread that goes on; -1 if none can.
int BlockRunner::pick() {
    if (runnable_warps_ == 0) return -1;
    uint32_t warp, lane;
    switch (launch_->order) {
        case Order::ascending:
            warp = static_cast<uint32_t>(__builtin_ctz(runnable_warps_));
            lane = static_cast<uint32_t>(__builtin_ctz(warps_[warp].runnable));
            break;
        case Order::descending:
            warp = 31 - static_cast<uint32_t>(__builtin_clz(runnable_warps_));
            lane = 31 - static_cast<uint32_t>(__builtin_clz(warps_[warp].runnable));
            break;
        default:
            random_ = random_ * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
            warp = first_from(runnable_warps_, static_cast<uint32_t>(random_ >> 59));
            lane = first_from(warps_[warp].runnable, static_cast<uint32_t>(random_ >> 54));
    }
    return static_cast<int>(warp * 32 + lane);
}

void BlockRunner::release_warp(uint32_t warp) {
    warps_[warp].runnable = lanes_of(warp);
    runnable_warps_ |= 1u << warp;
}

// The running thread can't go on: it waits, or (null) has returned.
void BlockRunner::block_running(const char* waits_in, Site site) {
    threads_[current_].waits_in = waits_in;
    threads_[current_].site = site;
    Warp& warp = warps_[current_ / 32];
    warp.runnable &= ~(1u << current_ % 32);
    if (warp.runnable == 0) runnable_warps_ &= ~(1u << current_ / 32);
}

// Lets `thread` go on, on its stack or on a new one.
void BlockRunner::resume(uint32_t thread, Context& from, bool forever) {
    Thread& state = threads_[thread];
    if (!state.stack) {
        state.stack = stacks_.take();
        state.stack->prepare(stack_entry);
    }
    become(thread);
    switch_context(from, state.stack->context, forever);
}

// Some other thread goes on, or this one if it is picked.
void BlockRunner::yield() {
    const uint32_t self = current_;
    const int next = pick();
    if (next == static_cast<int>(self)) return;
    Context& context = threads_[self].stack->context;
    if (next < 0) {
        switch_context(context, main_, false);
    } else {
        resume(static_cast<uint32_t>(next), context, false);
    }
}

void BlockRunner::run_threads() {
    Stack* stack = threads_[current_].stack;
    for (;;) {
        launch_->kernel->run(launch_->arguments);
        block_running(nullptr, {});
        ++finished_;
        if (at_barrier_ > 0) {
            error_ = stuck();
            stop();
        }
        const int next = pick();
        if (next < 0) switch_context(stack->context, main_, true);
        if (threads_[next].stack) {
            stacks_.give_back(stack);
            resume(static_cast<uint32_t>(next), stack->context, true);
        }
        become(static_cast<uint32_t>(next));
        threads_[next].stack = stack;
    }
}

// Nothing of the stack is unwound: no caller holds anything.
void BlockRunner::stop() {
    failed_ = true;
    switch_context(threads_[current_].stack->context, main_, true);
    abort();
}

void BlockRunner::wait_at_barrier(Site site) {
    if (at_barrier_ == 0) barrier_ = site;
    block_running("barrier", site);
    if (!same(barrier_, site)) {
        error_ = "divergent barriers: " + stuck();
        stop();
    }
    if (finished_ > 0) {
        error_ = stuck();
        stop();
    }
    if (++at_barrier_ == count_) {
        at_barrier_ = 0;
        now_.era = next_era();
        for (uint32_t warp = 0; warp * 32 < count_; ++warp) release_warp(warp);
    }
    yield();
}

bool BlockRunner::arrive(const char* operation, Site site) {
    Warp& warp = warps_[current_ / 32];
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.site = site;
    } else if (!same(warp.site, site) || (warp.operation != operation && strcmp(warp.operation, operation) != 0)) {
        block_running(operation, site);
        error_ = "divergent warp collective: " + stuck();
        stop();
    }
    warp.arrived |= 1u << current_ % 32;
    if (warp.arrived == ~0u) return true;
    block_running(operation, site);
    yield();
    return false;
}

void BlockRunner::leave() {
    warps_[current_ / 32].arrived = 0;
    release_warp(current_ / 32);
    yield();
}

}  // namespace sim
