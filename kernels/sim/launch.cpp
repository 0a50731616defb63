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

static std::string check(const Kernel& kernel, const Index3& grid, uint32_t threads, uint64_t argument_bytes) {
    char text[256] = "";
    if (kernel.threads == 0 || kernel.threads > max_threads)
        snprintf(text, sizeof text, "its KERNEL line says %u threads, a block has 1 to %u", kernel.threads, max_threads);
    else if (threads != kernel.threads)
        snprintf(text, sizeof text, "launched with %u threads, its KERNEL line says %u", threads, kernel.threads);
    else if (argument_bytes != kernel.argument_bytes)
        snprintf(text, sizeof text, "launched with %llu bytes of arguments, its struct has %llu",
                 static_cast<unsigned long long>(argument_bytes), static_cast<unsigned long long>(kernel.argument_bytes));
    else if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        snprintf(text, sizeof text, "no such grid: %u × %u × %u blocks", grid.x, grid.y, grid.z);
    return text;
}

}  // namespace sim

extern "C" {

struct SimLaunch {
    const char* kernel;
    const void* arguments;
    uint64_t argument_bytes;
    uint64_t seed;
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared;
    uint32_t order;
    uint32_t machine_threads;
};

enum SimResult { sim_ok = 0, sim_no_kernel = 1, sim_refused = 2, sim_failed = 3 };

// Runs a kernel to its end. What went wrong is written to `error`.
int32_t sim_launch(const SimLaunch* request, char* error, uint64_t error_bytes) {
    using namespace sim;
    const Kernel* kernel = nullptr;
    for (const Kernel* k = kernels; k; k = k->next) {
        if (strcmp(k->name, request->kernel) != 0) continue;
        if (kernel) {
            snprintf(error, error_bytes, "defined twice: %s:%u and %s:%u", kernel->site.file, kernel->site.line,
                     k->site.file, k->site.line);
            return sim_refused;
        }
        kernel = k;
    }
    if (!kernel) return sim_no_kernel;
    const Index3 extent{request->grid[0], request->grid[1], request->grid[2]};
    const std::string refused = check(*kernel, extent, request->threads, request->argument_bytes);
    if (!refused.empty()) {
        snprintf(error, error_bytes, "%s", refused.c_str());
        return sim_refused;
    }
    // Kernels read the struct where it lies; it must be aligned as in C++.
    alignas(64) unsigned char arguments[4096];
    if (request->argument_bytes > sizeof arguments) {
        snprintf(error, error_bytes, "more than %zu bytes of arguments", sizeof arguments);
        return sim_refused;
    }
    memcpy(arguments, request->arguments, request->argument_bytes);
    const Launch launch{kernel,    extent, request->shared, arguments, static_cast<Order>(request->order),
                        request->seed};
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

// Device memory: aligned to 256 bytes, full of NaN. Null if the machine has none left.
void* sim_allocate(uint64_t bytes) {
    using namespace sim;
    const size_t all = memory_guard + std::max<uint64_t>(bytes, 1) + memory_guard;
    void* memory = nullptr;
    if (posix_memalign(&memory, memory_alignment, all) != 0) return nullptr;
    memset(memory, guard, all);
    auto* begin = static_cast<unsigned char*>(memory) + memory_guard;
    memset(begin, poison, bytes);
    memory_come(begin, bytes);
    return begin;
}

void sim_free(void* memory, uint64_t bytes) {
    sim::memory_gone(memory);
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
