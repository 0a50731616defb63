// One block at a time: its threads, who of them waits for what, and in which order they go on.
#pragma once

#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "access.h"
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
    uint64_t card;
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

// The dynamic shared memory of a block, and the static one of its kernel's file.
class SharedMemory {
public:
    SharedMemory() = default;
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;
    ~SharedMemory();

    // Exactly as large as asked for.
    void allocate(const Launch& launch);
    unsigned char* begin() const { return begin_; }
    // A block finds it full of NaN, and something behind it that must stay.
    void forget();
    // The first byte behind it that was written, if one was.
    static constexpr size_t nowhere = ~size_t{0};
    size_t first_overrun() const;
    // Whether it has all of `bytes` bytes.
    bool holds(const void* pointer, size_t bytes) const;
    // What is remembered of it; null for other memory.
    Shadow* shadow_of(uintptr_t at, size_t bytes) const;

private:
    unsigned char* begin_ = nullptr;
    size_t bytes_ = 0;
    unsigned char *static_begin_ = nullptr, *static_end_ = nullptr;
    std::unique_ptr<Shadow> shadow_, static_shadow_;
};

// What a thread copies behind its own back.
class Copies {
public:
    void clear();
    // Spoils the destination, which gets its bytes when a wait covers the copy.
    void start(void* to, const void* data);
    void commit();
    void wait(uint32_t pending);

private:
    struct Copy {
        unsigned char* to;
        unsigned char data[16];
    };
    std::vector<Copy> copies_;     // of committed groups, then of the open one
    std::vector<uint32_t> groups_;  // copies in each committed group
    uint32_t committed_ = 0;       // copies in all of them
};

class BlockRunner {
public:
    // To be called by one thread of the machine, before its first block of a launch.
    void begin(const Launch& launch);
    // False if it failed; then `error` says why.
    bool run(Index3 block);
    // After the last block.
    void end();

    const std::string& error() const { return error_; }
    bool in_kernel() const { return in_kernel_; }
    const SharedMemory& shared() const { return shared_; }
    Copies& copies() { return threads_[current_].copies; }

    void wait_at_barrier(Site site);
    bool arrive(const char* operation, Site site);
    void leave();
    // Why the running thread can't go on; to be followed by `stop`.
    void blame(const std::string& reason);
    // Ends the block.
    [[noreturn]] void stop();
    [[noreturn]] void stop_at_access(const void* address, const void* code);
    // An access of the running thread, by the call that returns to `code`.
    void note(const void* at, size_t bytes, Access access, const void* code);
    void warp_synchronised() { ++warps_[current_ / 32].sync; }
    // What a thread's stack does: runs threads that have none yet, one after the other.
    [[noreturn]] void run_threads();

private:
    struct Thread {
        Stack* stack;          // null before it starts
        const char* waits_in;  // if it can't go on; null if it has returned
        Site site;             // where it waits
        Copies copies;
    };
    struct alignas(64) Warp {
        unsigned char exchange[exchange_inputs + exchange_outputs];
        uint32_t runnable;  // lanes that can go on
        uint32_t arrived;   // lanes that wait in the operation
        uint16_t sync;      // warp_barriers of this block
        const char* operation;
        Site site;
    };

    uint32_t lanes_of(uint32_t warp) const;
    void become(uint32_t thread);
    int pick();
    void block_running(const char* waits_in, Site site);
    void release_warp(uint32_t warp);
    void yield();
    void resume(uint32_t thread, Context& from, bool forever);
    bool is_own(uintptr_t at, size_t bytes) const;
    std::string situation_of(uint32_t thread) const;
    std::string who_is(const std::string& situation) const;
    std::string stuck() const;

    const Launch* launch_ = nullptr;
    std::string error_;
    bool failed_ = false;
    bool in_kernel_ = false;  // a thread of the block runs, not what runs blocks
    Context main_;
    StackPool stacks_;
    SignalCatcher signals_;
    SharedMemory shared_;
    std::vector<Thread> threads_;
    std::vector<Warp> warps_;
    uint32_t count_ = 0;           // of threads
    uint32_t current_ = 0;         // the running thread
    uint32_t finished_ = 0;        // threads that returned
    uint32_t at_barrier_ = 0;      // threads that wait at the barrier
    Site barrier_{};               // where
    uint32_t runnable_warps_ = 0;  // warps with lanes that can go on
    uint64_t random_ = 0;
    Now now_{};
};

// What runs blocks on this thread of the machine; null if nothing does.
extern __thread BlockRunner* runner;

// Such as `norm.cu:12`, of the call that returns to `code`; an offset in the program if that can't be found out.
std::string line_of(const void* code);
uint32_t offset_in_program(const void* code);
const void* at_offset(uint32_t where);
bool is_program(uintptr_t at);
// As printf does it.
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
// Such as `norm.cu:12`.
std::string text_of(Site site);
bool same(Site a, Site b);

}  // namespace sim
