// Kernels by name, launches over several threads of the machine, device memory; what the Rust side calls.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "block.h"

namespace sim {

static Kernel* kernels;

// Bytes before and behind device memory that must stay as they are. The sanitizer has its own.
#if SIM_ADDRESS_SANITIZER
constexpr size_t memory_guard = 0;
#else
constexpr size_t memory_guard = 512;
#endif
constexpr size_t memory_alignment = 256;

// The first of `bytes` bytes that is not a guard's; `bytes` if all are.
static size_t first_changed(const unsigned char* guarded, size_t bytes) {
    size_t i = 0;
    while (i < bytes && guarded[i] == guard) ++i;
    return i;
}

Kernel::Kernel(const char* name, uint32_t threads, size_t argument_bytes, void (*run)(const void*), Site site,
               const unsigned char* shared_begin, const unsigned char* shared_end)
    : name(name),
      threads(threads),
      argument_bytes(argument_bytes),
      run(run),
      site(site),
      shared_begin(shared_begin),
      shared_end(shared_end),
      next(kernels) {
    kernels = this;
}

// Runners that are not at work; they keep their stacks.
class RunnerPool {
public:
    std::unique_ptr<BlockRunner> take() {
        std::lock_guard<std::mutex> lock(mutex_);
        if (free_.empty()) return std::make_unique<BlockRunner>();
        auto runner = std::move(free_.back());
        free_.pop_back();
        return runner;
    }
    void give_back(std::unique_ptr<BlockRunner> runner) {
        std::lock_guard<std::mutex> lock(mutex_);
        free_.push_back(std::move(runner));
    }

private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<BlockRunner>> free_;
};
static RunnerPool runners;

// The blocks of a launch, which threads of the machine take one by one.
class Grid {
public:
    explicit Grid(const Launch& launch) : launch_(launch) {
        blocks_ = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
        if (launch.order == Order::random) {
            // Below 2^32, so that products fit.
            step_ = launch.seed * 0x9e3779b97f4a7c15ull % std::min<uint64_t>(blocks_, 1u << 31) + 1;
            while (std::gcd(step_, blocks_) != 1) ++step_;
        }
    }

    uint64_t blocks() const { return blocks_; }

    void work() {
        auto runner = runners.take();
        runner->begin(launch_);
        for (uint64_t turn = next_++; turn < blocks_; turn = next_++) {
            const uint64_t index = block_of(turn);
            const uint64_t plane = uint64_t(launch_.grid.x) * launch_.grid.y;
            const Index3 block{static_cast<uint32_t>(index % launch_.grid.x),
                               static_cast<uint32_t>(index % plane / launch_.grid.x),
                               static_cast<uint32_t>(index / plane)};
            if (!runner->run(block)) {
                std::lock_guard<std::mutex> lock(mutex_);
                if (error_.empty()) error_ = runner->error();
                next_ = blocks_;
            }
        }
        runner->end();
        runners.give_back(std::move(runner));
    }

    const std::string& error() const { return error_; }

private:
    // Which block is begun as the `turn`-th.
    uint64_t block_of(uint64_t turn) const {
        switch (launch_.order) {
            case Order::ascending: return turn;
            case Order::descending: return blocks_ - 1 - turn;
            default: return turn * step_ % blocks_;
        }
    }

    const Launch& launch_;
    uint64_t blocks_;
    uint64_t step_ = 1;
    std::atomic<uint64_t> next_{0};
    std::mutex mutex_;
    std::string error_;
};

}  // namespace sim

extern "C" {

struct SimLaunch {
    const char* kernel;
    const void* arguments;
    uint64_t argument_bytes;
    uint64_t seed;
    uint64_t card;
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared;
    uint32_t order;
    uint32_t machine_threads;
};

enum SimResult { sim_ok = 0, sim_no_kernel = 1, sim_refused = 2, sim_failed = 3 };
}

namespace sim {

// Kernels read their arguments where they lie, aligned as in C++.
constexpr size_t max_argument_bytes = 4096;

static std::string site_of(const Kernel& kernel) { return text_of(kernel.site); }

// Why a card would refuse it; empty if it wouldn't.
static std::string refusal(const SimLaunch& request, const Kernel& kernel) {
    for (const Kernel* other = kernel.next; other; other = other->next)
        if (strcmp(other->name, kernel.name) == 0)
            return "defined twice, at " + site_of(*other) + " and " + site_of(kernel);
    const uint32_t* grid = request.grid;
    if (kernel.threads == 0 || kernel.threads > max_threads)
        return format("its KERNEL line says %u threads, a block has 1 to %u", kernel.threads, max_threads);
    if (request.threads != kernel.threads)
        return format("launched with %u threads, its KERNEL line says %u", request.threads, kernel.threads);
    if (request.argument_bytes != kernel.argument_bytes)
        return format("launched with %zu bytes of arguments, its struct has %zu",
                      static_cast<size_t>(request.argument_bytes), kernel.argument_bytes);
    if (request.argument_bytes > max_argument_bytes)
        return format("%zu bytes of arguments, a card takes %zu", kernel.argument_bytes, max_argument_bytes);
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
        return format("no such grid: %u × %u × %u blocks", grid[0], grid[1], grid[2]);
    return "";
}

static const Kernel* find(const char* name) {
    const Kernel* kernel = kernels;
    while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
    return kernel;
}

}  // namespace sim

extern "C" {

// Whether a card would take the launch. If not, `error` says why.
int32_t sim_check(const SimLaunch* request, char* error, uint64_t error_bytes) {
    const sim::Kernel* kernel = sim::find(request->kernel);
    if (!kernel) return sim_no_kernel;
    const std::string refusal = sim::refusal(*request, *kernel);
    snprintf(error, error_bytes, "%s", refusal.c_str());
    return refusal.empty() ? sim_ok : sim_refused;
}

// Runs a kernel to its end. What went wrong is written to `error`.
int32_t sim_launch(const SimLaunch* request, char* error, uint64_t error_bytes) {
    using namespace sim;
    if (const int32_t refused = sim_check(request, error, error_bytes)) return refused;
    alignas(64) unsigned char arguments[max_argument_bytes];
    memcpy(arguments, request->arguments, request->argument_bytes);
    const Launch launch{find(request->kernel),
                        {request->grid[0], request->grid[1], request->grid[2]},
                        request->shared,
                        arguments,
                        static_cast<Order>(request->order),
                        request->seed,
                        request->card};
    Grid grid(launch);
#if SIM_RACES
    const uint64_t hands = 1;  // what is remembered of memory is one thread's
#else
    const uint64_t hands = std::min<uint64_t>(request->machine_threads, grid.blocks());
#endif
    std::vector<std::thread> helpers;
    for (uint64_t i = 1; i < hands; ++i) helpers.emplace_back([&grid] { grid.work(); });
    grid.work();
    for (auto& helper : helpers) helper.join();
    if (grid.error().empty()) return sim_ok;
    snprintf(error, error_bytes, "%s", grid.error().c_str());
    return sim_failed;
}

// Memory of a card: aligned to 256 bytes, full of NaN. Null if the machine has none left.
void* sim_allocate(uint64_t card, uint64_t bytes) {
    using namespace sim;
    const size_t all = memory_guard + std::max<uint64_t>(bytes, 1) + memory_guard;
    void* memory = nullptr;
    if (posix_memalign(&memory, memory_alignment, all) != 0) return nullptr;
    memset(memory, guard, all);
    auto* begin = static_cast<unsigned char*>(memory) + memory_guard;
    memset(begin, poison, bytes);
    memory_come(card, begin, bytes);
    return begin;
}

void sim_free(uint64_t card, void* memory, uint64_t bytes) {
    sim::memory_gone(card, memory);
    memset(memory, sim::poison, bytes);
    free(static_cast<unsigned char*>(memory) - sim::memory_guard);
}

// Whether something was written shortly before or behind memory of `bytes` bytes; if so, `offset` is how far from its
// begin. What is found once isn't found again.
int32_t sim_written_outside(void* memory, uint64_t bytes, int64_t* offset) {
    using namespace sim;
    auto* begin = static_cast<unsigned char*>(memory);
    for (unsigned char* guarded : {begin - memory_guard, begin + bytes}) {
        const size_t changed = first_changed(guarded, memory_guard);
        if (changed == memory_guard) continue;
        *offset = guarded + changed - begin;
        memset(guarded, guard, memory_guard);
        return 1;
    }
    return 0;
}

// The name of the `index`-th kernel, with its threads and bytes of arguments; null behind the last.
const char* sim_kernel(uint64_t index, uint32_t* threads, uint64_t* argument_bytes) {
    const sim::Kernel* kernel = sim::kernels;
    for (; kernel && index > 0; --index) kernel = kernel->next;
    if (!kernel) return nullptr;
    *threads = kernel->threads;
    *argument_bytes = kernel->argument_bytes;
    return kernel->name;
}
}
