// Stacks that threads of a block run on, and switching between them.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ADDRESS_SANITIZER 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
#define SIM_UCONTEXT 1
#include <ucontext.h>
#endif

namespace sim {

// What is left of a run that was interrupted.
struct Context {
#if SIM_UCONTEXT
    ucontext_t user;
#else
    void* stack_pointer = nullptr;
#endif
#if SIM_ADDRESS_SANITIZER
    void* fake_stack = nullptr;
    const void* bottom = nullptr;
    size_t size = 0;
#endif
};

// A stack, with a page below it that must not be touched.
struct Stack {
    unsigned char* bottom;
    size_t size;
    Context context;

    // Makes the context one that starts with `entry`, which never returns.
    void prepare(void (*entry)());
};

// Stacks, made as needed and used again; those of one simulated block at a time.
class StackPool {
public:
    StackPool() = default;
    StackPool(const StackPool&) = delete;
    StackPool& operator=(const StackPool&) = delete;
    ~StackPool();

    Stack* take();
    void give_back(Stack* stack) { free_.push_back(stack); }
    // All are free, whoever still ran on them.
    void reclaim();

private:
    std::vector<std::unique_ptr<Stack>> all_;
    std::vector<Stack*> free_;
};

// Leaves `from`, to go on where `to` was left. `from` is not gone on with if `forever`.
void switch_context(Context& from, Context& to, bool forever);

// To be called first on a new stack.
void arrived_on_stack();

// The context of the stack that the machine's thread has by itself.
void prepare_own(Context& context);

}  // namespace sim
