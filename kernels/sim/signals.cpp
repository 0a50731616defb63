// Invalid accesses of kernels, as the processor reports them. The address sanitizer has handlers of its own.
#include <ucontext.h>

#include <mutex>

#include "block.h"

namespace sim {

#if SIM_ADDRESS_SANITIZER

void SignalCatcher::begin() {}
void SignalCatcher::end() {}

#else

constexpr int caught[] = {SIGSEGV, SIGBUS};
static struct sigaction before[2];

static const void* code_of(const ucontext_t& context) {
#if defined(__x86_64__)
    return reinterpret_cast<const void*>(context.uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return reinterpret_cast<const void*>(context.uc_mcontext.pc);
#else
    return nullptr;
#endif
}

static void handle(int number, siginfo_t* info, void* context) {
    // The handler is left for good if a kernel did it, with the mask that it found.
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, number);
    pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
    if (runner && runner->in_kernel())
        runner->stop_at_access(info->si_addr, code_of(*static_cast<const ucontext_t*>(context)));
    // Somebody else's: the access is tried again, for who was there before.
    sigaction(number, &before[number == caught[0] ? 0 : 1], nullptr);
}

void SignalCatcher::begin() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int i = 0; i < 2; ++i) sigaction(caught[i], &action, &before[i]);
    });
    constexpr size_t bytes = 64 << 10;
    if (!stack_) stack_.reset(new char[bytes]);
    stack_t stack{};
    stack.ss_sp = stack_.get();
    stack.ss_size = bytes;
    sigaltstack(&stack, &before_);
}

void SignalCatcher::end() { sigaltstack(&before_, nullptr); }

#endif

}  // namespace sim
