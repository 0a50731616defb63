#include "block.h"

#include <link.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace sim {

__thread Running running;

// Of this thread of the machine, while it runs blocks.
static __thread BlockRunner* runner;

// Bytes behind shared memory that must stay as they are.
constexpr size_t guard_bytes = 4096;

static const char* base_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
static std::string format(const char* pattern, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, pattern);
    vsnprintf(text, sizeof text, pattern, arguments);
    va_end(arguments);
    return text;
}

static std::string text_of(Site site) { return format("%s:%u", base_name(site.file), site.line); }

void fail(Site site, const char* pattern, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, pattern);
    vsnprintf(text, sizeof text, pattern, arguments);
    va_end(arguments);
    runner->blame(site, text);
    runner->stop();
}

void block_barrier(Site site) { runner->wait_at_barrier(site); }
bool arrive(const char* operation, Site site) { return runner->arrive(operation, site); }
void leave() { runner->leave(); }
void copy_async(void* to_shared, const void* data) { runner->copy(to_shared, data); }
void check_shared(const void* pointer, const char* operation, Site site) {
    if (!runner->in_shared_memory(pointer))
        fail(site, "%s: address %p is not in the block's shared memory", operation, pointer);
}
void check_global(const void* pointer, const char* operation, Site site) {
    if (runner->in_shared_memory(pointer))
        fail(site, "%s: address %p is in the block's shared memory", operation, pointer);
}
void copy_commit() { runner->commit_copies(); }
void copy_wait(uint32_t pending) { runner->wait_for_copies(pending); }

// The variables of this thread of the machine: static shared arrays are among them.
struct ThreadVariables {
    unsigned char* here;
    const unsigned char* in_program;
    size_t bytes;
};

static int find_variables(dl_phdr_info* info, size_t, void* found) {
    const auto* own = reinterpret_cast<unsigned char*>(&running);
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto& segment = info->dlpi_phdr[i];
        auto* here = static_cast<unsigned char*>(info->dlpi_tls_data);
        if (segment.p_type != PT_TLS || !here || own < here || own >= here + segment.p_memsz) continue;
        const auto* in_program = reinterpret_cast<const unsigned char*>(info->dlpi_addr + segment.p_vaddr);
        *static_cast<ThreadVariables*>(found) = {here, in_program, segment.p_memsz};
        return 1;
    }
    return 0;
}

static const ThreadVariables& thread_variables() {
    static __thread ThreadVariables variables;
    if (!variables.here) dl_iterate_phdr(find_variables, &variables);
    return variables;
}

void stop_at_access(const void* address) {
    if (runner && runner->in_kernel()) runner->stop_at_access(address);
}

static void stack_entry() {
    arrived_on_stack();
    runner->run_threads();
}

BlockRunner::~BlockRunner() { free(shared_); }

void BlockRunner::begin(const Launch& launch) {
    launch_ = &launch;
    error_.clear();
    failed_ = false;
    count_ = launch.kernel->threads;
    if (threads_.size() < count_) threads_.resize(count_);
    if (warps_.size() < (count_ + 31) / 32) warps_.resize((count_ + 31) / 32);
    free(shared_);
    shared_ = nullptr;
#if SIM_ADDRESS_SANITIZER
    const size_t bytes = launch.shared_bytes;  // overruns are found by the redzone of the allocation
#else
    const size_t bytes = launch.shared_bytes + guard_bytes;
#endif
    void* memory = nullptr;
    if (bytes > 0 && posix_memalign(&memory, 128, bytes) != 0) abort();
    shared_ = static_cast<unsigned char*>(memory);
    random_ = launch.seed * 0x9e3779b97f4a7c15ull + 1;
    running.block_extent = {count_, 1, 1};
    running.grid = launch.grid;
    running.shared = shared_;
    prepare_own(main_);
    signals_.begin();
    runner = this;
}

void BlockRunner::end() {
    signals_.end();
    runner = nullptr;
}

bool BlockRunner::run(Index3 block) {
    running.block = block;
    if (launch_->order == Order::random) {
        // A block's order depends on nothing but the seed and its place.
        const uint64_t index = (uint64_t(block.z) * launch_->grid.y + block.y) * launch_->grid.x + block.x;
        random_ = (launch_->seed + 1) * 0x9e3779b97f4a7c15ull ^ (index + 1) * 0xd1342543de82ef95ull;
    }
    finished_ = at_barrier_ = 0;
    returned_.assign(count_, false);
    for (uint32_t thread = 0; thread < count_; ++thread) {
        Thread& state = threads_[thread];
        state.stack = nullptr;
        state.waits_in = nullptr;
        state.copies.clear();
        state.groups.clear();
    }
    for (uint32_t warp = 0; warp * 32 < count_; ++warp) {
        const uint32_t lanes = count_ - warp * 32;
        runnable_[warp] = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        warps_[warp].arrived = 0;
    }
    const uint32_t warps = (count_ + 31) / 32;
    runnable_warps_ = warps == 32 ? ~0u : (1u << warps) - 1;
    forget_shared_memory();
    in_kernel_ = true;
    resume(static_cast<uint32_t>(pick()), main_, false);
    in_kernel_ = false;
    if (!failed_ && finished_ < count_) {
        failed_ = true;
        error_ = stuck();
    }
    if (!failed_) failed_ = overran_shared_memory();
    stacks_.reclaim();
    return !failed_;
}

void BlockRunner::become(uint32_t thread) {
    current_ = thread;
    running.thread = {thread, 0, 0};
    running.lane = thread % 32;
    running.exchange = warps_[thread / 32].exchange;
}

static uint32_t rotated_first(uint32_t mask, uint32_t by) {
    by &= 31;
    const uint32_t rotated = by ? mask >> by | mask << (32 - by) : mask;
    return (static_cast<uint32_t>(__builtin_ctz(rotated)) + by) & 31;
}

int BlockRunner::pick() {
    if (runnable_warps_ == 0) return -1;
    uint32_t warp, lane;
    switch (launch_->order) {
        case Order::ascending:
            warp = static_cast<uint32_t>(__builtin_ctz(runnable_warps_));
            lane = static_cast<uint32_t>(__builtin_ctz(runnable_[warp]));
            break;
        case Order::descending:
            warp = 31 - static_cast<uint32_t>(__builtin_clz(runnable_warps_));
            lane = 31 - static_cast<uint32_t>(__builtin_clz(runnable_[warp]));
            break;
        default:
            random_ = random_ * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
            warp = rotated_first(runnable_warps_, static_cast<uint32_t>(random_ >> 59));
            lane = rotated_first(runnable_[warp], static_cast<uint32_t>(random_ >> 54));
    }
    return static_cast<int>(warp * 32 + lane);
}

void BlockRunner::release(uint32_t thread) {
    threads_[thread].waits_in = nullptr;
    runnable_[thread / 32] |= 1u << thread % 32;
    runnable_warps_ |= 1u << thread / 32;
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

void BlockRunner::block_running(const char* waits_in, Site site) {
    threads_[current_].waits_in = waits_in;
    threads_[current_].site = site;
    const uint32_t warp = current_ / 32;
    runnable_[warp] &= ~(1u << current_ % 32);
    if (runnable_[warp] == 0) runnable_warps_ &= ~(1u << warp);
}

void BlockRunner::run_threads() {
    Stack* stack = threads_[current_].stack;
    for (;;) {
        launch_->kernel->run(launch_->arguments);
        block_running(nullptr, {});
        returned_[current_] = true;
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

void BlockRunner::blame(Site site, const char* text) { error_ = text_of(site) + ": " + text + where(); }

// Nothing of the stack is unwound: no caller holds anything.
void BlockRunner::stop() {
    failed_ = true;
    switch_context(threads_[current_].stack->context, main_, true);
    abort();
}

// By a signal that the processor raised: `address` can't be accessed.
void BlockRunner::stop_at_access(const void* address) {
    const Stack& stack = *threads_[current_].stack;
    const auto* at = static_cast<const unsigned char*>(address);
    if (at < stack.bottom && at >= stack.bottom - stack.size) {
        error_ = format("the locals of a thread take more than %zu KiB", stack.size >> 10) + where();
    } else {
        error_ = format("address %p is in no memory", address) + where();
    }
    stop();
}

void BlockRunner::wait_at_barrier(Site site) {
    if (at_barrier_ == 0) {
        barrier_ = site;
    } else if (barrier_.line != site.line || strcmp(barrier_.file, site.file) != 0) {
        block_running("barrier", site);
        error_ = "divergent barriers: " + stuck();
        stop();
    }
    block_running("barrier", site);
    ++at_barrier_;
    if (finished_ > 0) {
        error_ = stuck();
        stop();
    }
    if (at_barrier_ == count_) {
        at_barrier_ = 0;
        for (uint32_t thread = 0; thread < count_; ++thread) release(thread);
    }
    yield();
}

bool BlockRunner::arrive(const char* operation, Site site) {
    Warp& warp = warps_[current_ / 32];
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.site = site;
    } else if (strcmp(warp.operation, operation) != 0 || warp.site.line != site.line ||
               strcmp(warp.site.file, site.file) != 0) {
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
    const uint32_t first = current_ / 32 * 32;
    warps_[first / 32].arrived = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) release(first + lane);
    yield();
}

bool BlockRunner::in_shared_memory(const void* pointer) const {
    const auto* to = static_cast<const unsigned char*>(pointer);
    if (to >= shared_ && to + 16 <= shared_ + launch_->shared_bytes) return true;
    const ThreadVariables& variables = thread_variables();
    return to >= variables.here && to + 16 <= variables.here + variables.bytes;
}

// A block finds shared memory full of NaN, and something behind it that must stay.
void BlockRunner::forget_shared_memory() {
    if (shared_) memset(shared_, poison, launch_->shared_bytes);
#if !SIM_ADDRESS_SANITIZER
    if (shared_) memset(shared_ + launch_->shared_bytes, guard, guard_bytes);
#endif
    const Kernel& kernel = *launch_->kernel;
    if (kernel.shared_begin == kernel.shared_end) return;
    const ThreadVariables& variables = thread_variables();
    memset(variables.here + (kernel.shared_begin - variables.in_program), poison,
           static_cast<size_t>(kernel.shared_end - kernel.shared_begin));
}

bool BlockRunner::overran_shared_memory() {
#if !SIM_ADDRESS_SANITIZER
    for (size_t i = 0; shared_ && i < guard_bytes; ++i) {
        if (shared_[launch_->shared_bytes + i] == guard) continue;
        error_ = format("byte %zu of shared memory was written, the launch has %u, in block (%u, %u, %u)",
                        launch_->shared_bytes + i, launch_->shared_bytes, running.block.x, running.block.y,
                        running.block.z);
        return true;
    }
#endif
    return false;
}

void BlockRunner::copy(void* to_shared, const void* data) {
    Copy copy{static_cast<unsigned char*>(to_shared), {}};
    memcpy(copy.data, data, 16);
    memset(to_shared, poison, 16);
    threads_[current_].copies.push_back(copy);
}

void BlockRunner::commit_copies() {
    Thread& thread = threads_[current_];
    size_t committed = 0;
    for (uint32_t group : thread.groups) committed += group;
    thread.groups.push_back(static_cast<uint32_t>(thread.copies.size() - committed));
}

void BlockRunner::wait_for_copies(uint32_t pending) {
    Thread& thread = threads_[current_];
    if (thread.groups.size() <= pending) return;
    const size_t groups = thread.groups.size() - pending;
    size_t copies = 0;
    for (size_t group = 0; group < groups; ++group) copies += thread.groups[group];
    for (size_t i = 0; i < copies; ++i) memcpy(thread.copies[i].to, thread.copies[i].data, 16);
    thread.groups.erase(thread.groups.begin(), thread.groups.begin() + static_cast<std::ptrdiff_t>(groups));
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<std::ptrdiff_t>(copies));
}

std::string BlockRunner::where() const {
    return format(" (thread %u of block (%u, %u, %u))", current_, running.block.x, running.block.y, running.block.z);
}

// Threads in the same situation as `like`, as ranges.
std::string BlockRunner::threads_where(uint32_t like) const {
    const auto same = [&](uint32_t thread) {
        const Thread &a = threads_[like], &b = threads_[thread];
        if (returned_[like] || returned_[thread]) return bool(returned_[like]) == bool(returned_[thread]);
        if (!a.waits_in || !b.waits_in) return a.waits_in == b.waits_in;
        return strcmp(a.waits_in, b.waits_in) == 0 && a.site.line == b.site.line &&
               strcmp(a.site.file, b.site.file) == 0;
    };
    std::string text;
    uint32_t ranges = 0;
    for (uint32_t first = 0; first < count_; ++first) {
        if (!same(first)) continue;
        uint32_t last = first;
        while (last + 1 < count_ && same(last + 1)) ++last;
        if (++ranges > 4) return text + ", …";
        text += format(last == first ? "%s%u" : "%s%u–%u", ranges > 1 ? ", " : "", first, last);
        first = last;
    }
    return text;
}

// Who waits where.
std::string BlockRunner::stuck() const {
    std::string text;
    std::vector<std::string> seen;
    for (uint32_t thread = 0; thread < count_; ++thread) {
        std::string what;
        const Thread& state = threads_[thread];
        if (returned_[thread]) {
            what = "returned";
        } else if (state.waits_in) {
            what = std::string("wait in ") + state.waits_in + " at " + text_of(state.site);
        } else {
            what = "are on their way";
        }
        bool known = false;
        for (const auto& other : seen) known |= other == what;
        if (known) continue;
        seen.push_back(what);
        text += format("%sthreads %s of %u %s", text.empty() ? "" : "; ", threads_where(thread).c_str(), count_,
                       what.c_str());
    }
    return text + format(" in block (%u, %u, %u)", running.block.x, running.block.y, running.block.z);
}

}  // namespace sim
