// One block at a time: its threads, who of them waits for what, and in which order they go on.
#pragma once

#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "machine.h"

namespace sim {

constexpr uint32_t max_threads = 1024;
// What memory holds that was never written: NaN as float and as bf16, -1 as an integer.
constexpr unsigned char poison = 0xff;
// What memory holds that must not be written.
constexpr unsigned char guard = 0xa5;

// Which of the threads that can go on goes on. Results must not depend on it.
enum class Order : uint32_t { ascending, descending, random };

struct Launch {
    const Kernel* kernel;
    Index3 grid;
    uint32_t shared_bytes;
    const void* arguments;
    Order order;
    uint64_t seed;
};

// While it catches, invalid accesses of kernels that this thread of the machine runs end their launch, not the process.
class SignalCatcher {
public:
    void begin();
    void end();

private:
    std::unique_ptr<char[]> stack_;  // the handler's: a kernel may have used up its own
    stack_t before_{};
};

class BlockRunner {
public:
    BlockRunner() = default;
    ~BlockRunner();

    // To be called by one thread of the machine, before its first block of a launch.
    void begin(const Launch& launch);
    // False if it failed; then `error` says why.
    bool run(Index3 block);
    // After the last block.
    void end();

    const std::string& error() const { return error_; }

    void wait_at_barrier(Site site);
    bool arrive(const char* operation, Site site);
    void leave();
    void copy(void* to_shared, const void* data);
    void commit_copies();
    void wait_for_copies(uint32_t pending);
    // Sixteen bytes of the block's shared memory.
    bool in_shared_memory(const void* pointer) const;
    // Why the running thread can't go on; to be followed by `stop`.
    void blame(Site site, const char* text);
    // Ends the block.
    [[noreturn]] void stop();
    [[noreturn]] void stop_at_access(const void* address);
    bool in_kernel() const { return in_kernel_; }
    // What a thread's stack does: runs threads that have none yet, one after the other.
    [[noreturn]] void run_threads();

private:
    struct Copy {
        unsigned char* to;
        unsigned char data[16];
    };
    struct Thread {
        Stack* stack;
        const char* waits_in;  // null while it can go on
        Site site;
        std::vector<Copy> copies;      // of committed groups, then of the open one
        std::vector<uint32_t> groups;  // copies in each committed group
    };
    struct alignas(64) Warp {
        unsigned char exchange[exchange_inputs + exchange_outputs];
        uint32_t arrived;
        const char* operation;
        Site site;
    };

    void become(uint32_t thread);
    int pick();
    void block_running(const char* waits_in, Site site);
    void release(uint32_t thread);
    void yield();
    void resume(uint32_t thread, Context& from, bool forever);
    void forget_shared_memory();
    bool overran_shared_memory();
    std::string stuck() const;
    std::string where() const;
    std::string threads_where(uint32_t state) const;

    const Launch* launch_ = nullptr;
    std::string error_;
    bool failed_ = false;
    bool in_kernel_ = false;  // a thread of the block, not what runs blocks
    Context main_;
    StackPool stacks_;
    SignalCatcher signals_;
    std::vector<Thread> threads_;
    std::vector<Warp> warps_;
    uint32_t count_ = 0;             // of threads
    uint32_t current_ = 0;           // the running thread
    uint32_t finished_ = 0;          // threads that returned
    uint32_t at_barrier_ = 0;        // threads that wait at the barrier
    Site barrier_{};                 // where
    uint32_t runnable_[32] = {};     // lanes by warp
    uint32_t runnable_warps_ = 0;
    uint64_t random_ = 0;
    unsigned char* shared_ = nullptr;
    std::vector<bool> returned_;
};

// Ends the block that runs, if one does.
void stop_at_access(const void* address);

}  // namespace sim
