#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if SIM_ADDRESS_SANITIZER
// Rust programs keep what lives as long as they do.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

namespace sim {

#if SIM_ADDRESS_SANITIZER
constexpr size_t stack_bytes = 256 << 10;  // the sanitizer's frames are several times as large
#else
constexpr size_t stack_bytes = 64 << 10;
#endif

#if defined(__x86_64__)
// Pushes what a call must preserve, swaps stacks, pops. The floating-point control words are the same everywhere.
extern "C" void sim_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl sim_switch
.hidden sim_switch
.type sim_switch, @function
sim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size sim_switch, . - sim_switch
)");
constexpr size_t saved_words = 6;

#elif defined(__aarch64__)
extern "C" void sim_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl sim_switch
.hidden sim_switch
.type sim_switch, @function
sim_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size sim_switch, . - sim_switch
)");
#endif

void Stack::prepare(void (*entry)()) {
#if SIM_ADDRESS_SANITIZER
    __asan_unpoison_memory_region(bottom, size);
    context.fake_stack = nullptr;
    context.bottom = bottom;
    context.size = size;
#endif
#if SIM_UCONTEXT
    getcontext(&context.user);
    context.user.uc_stack.ss_sp = bottom;
    context.user.uc_stack.ss_size = size;
    context.user.uc_link = nullptr;
    makecontext(&context.user, entry, 0);
#elif defined(__x86_64__)
    // The registers, the entry, and a return address that is never used: the entry finds the stack as after a call.
    void** top = reinterpret_cast<void**>(bottom + size) - 2;
    memset(top - saved_words, 0, (saved_words + 2) * sizeof(void*));
    top[0] = reinterpret_cast<void*>(entry);
    context.stack_pointer = top - saved_words;
#else
    uint64_t* frame = reinterpret_cast<uint64_t*>(bottom + size) - 20;
    memset(frame, 0, 160);
    frame[11] = reinterpret_cast<uint64_t>(entry);  // x30
    context.stack_pointer = frame;
#endif
}

StackPool::~StackPool() {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (auto& stack : all_) munmap(stack->bottom - page, stack->size + page);
}

Stack* StackPool::take() {
    if (free_.empty()) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        void* memory = mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
            fputs("simulator: no memory for the stack of a thread\n", stderr);
            abort();
        }
        auto* bottom = static_cast<unsigned char*>(memory) + page;
        all_.emplace_back(new Stack{bottom, stack_bytes, {}});
        free_.push_back(all_.back().get());
    }
    Stack* stack = free_.back();
    free_.pop_back();
    return stack;
}

void StackPool::reclaim() {
    free_.clear();
    for (auto& stack : all_) free_.push_back(stack.get());
}

void switch_context(Context& from, Context& to, [[maybe_unused]] bool forever) {
#if SIM_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(forever ? nullptr : &from.fake_stack, to.bottom, to.size);
#endif
#if SIM_UCONTEXT
    swapcontext(&from.user, &to.user);
#else
    sim_switch(&from.stack_pointer, to.stack_pointer);
#endif
#if SIM_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void arrived_on_stack() {
#if SIM_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void prepare_own([[maybe_unused]] Context& context) {
#if SIM_ADDRESS_SANITIZER
    pthread_attr_t attributes;
    void* bottom;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &context.size);
    pthread_attr_destroy(&attributes);
    context.bottom = bottom;
#endif
}

}  // namespace sim
