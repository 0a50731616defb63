// Shared memory, and copies into it behind a thread's back.
#include <link.h>

#include <cstdlib>

#include "block.h"

namespace sim {

// Bytes behind dynamic shared memory that must stay as they are. The address sanitizer has its own.
#if SIM_ADDRESS_SANITIZER
constexpr size_t guard_bytes = 0;
#else
constexpr size_t guard_bytes = 4096;
#endif

void check_shared(const void* pointer, const char* operation, Site site) {
    if (!runner->shared().holds(pointer, 16))
        fail(site, "%s: address %p is not in the block's shared memory", operation, pointer);
}

void check_global(const void* pointer, const char* operation, Site site) {
    if (runner->shared().holds(pointer, 16))
        fail(site, "%s: address %p is in the block's shared memory", operation, pointer);
}

void copy_async(void* to_shared, const void* data) { runner->copies().start(to_shared, data); }
void copy_commit() { runner->copies().commit(); }
void copy_wait(uint32_t pending) { runner->copies().wait(pending); }

// The variables of this thread of the machine, as they lie in the program: static shared arrays are among them.
struct ThreadVariables {
    unsigned char* here;
    const unsigned char* in_program;
    size_t bytes;
};

static int find_variables(dl_phdr_info* info, size_t, void* found) {
    const auto* own = reinterpret_cast<unsigned char*>(&running);
    auto* here = static_cast<unsigned char*>(info->dlpi_tls_data);
    for (int i = 0; here && i < info->dlpi_phnum; ++i) {
        const auto& segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_TLS || own < here || own >= here + segment.p_memsz) continue;
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

SharedMemory::~SharedMemory() { free(begin_); }

void SharedMemory::allocate(const Launch& launch) {
    free(begin_);
    bytes_ = launch.shared_bytes;
    void* memory = nullptr;
    if (bytes_ + guard_bytes > 0 && posix_memalign(&memory, 128, bytes_ + guard_bytes) != 0) abort();
    begin_ = static_cast<unsigned char*>(memory);
    const Kernel& kernel = *launch.kernel;
    const ThreadVariables& variables = thread_variables();
#if SIM_RACES
    shadow_ = std::make_unique<Shadow>(begin_, bytes_);
    static_shadow_ = std::make_unique<Shadow>(variables.here, variables.bytes);
#endif
    static_begin_ = static_end_ = nullptr;
    if (kernel.shared_begin == kernel.shared_end) return;
    static_begin_ = variables.here + (kernel.shared_begin - variables.in_program);
    static_end_ = static_begin_ + (kernel.shared_end - kernel.shared_begin);
}

Shadow* SharedMemory::shadow_of(uintptr_t at, size_t bytes) const {
    if (shadow_ && shadow_->holds(at, bytes)) return shadow_.get();
    const auto running_begin = reinterpret_cast<uintptr_t>(&running);
    if (at >= running_begin && at < running_begin + sizeof running) return nullptr;
    return static_shadow_ && static_shadow_->holds(at, bytes) ? static_shadow_.get() : nullptr;
}

void SharedMemory::forget() {
    if (bytes_ > 0) memset(begin_, poison, bytes_);
    if (guard_bytes > 0) memset(begin_ + bytes_, guard, guard_bytes);
    if (static_begin_) memset(static_begin_, poison, static_cast<size_t>(static_end_ - static_begin_));
}

size_t SharedMemory::first_overrun() const {
    for (size_t i = 0; i < guard_bytes; ++i)
        if (begin_[bytes_ + i] != guard) return bytes_ + i;
    return nowhere;
}

// Static arrays of templates are where all variables are: compilers don't put them into the section.
bool SharedMemory::holds(const void* pointer, size_t bytes) const {
    const auto* at = static_cast<const unsigned char*>(pointer);
    if (at >= begin_ && at + bytes <= begin_ + bytes_) return true;
    const ThreadVariables& variables = thread_variables();
    return at >= variables.here && at + bytes <= variables.here + variables.bytes;
}

void Copies::clear() {
    copies_.clear();
    groups_.clear();
    committed_ = 0;
}

void Copies::start(void* to, const void* data) {
    note_write(to, 16);
    Copy copy{static_cast<unsigned char*>(to), {}};
    memcpy(copy.data, data, 16);
    memset(to, poison, 16);
    copies_.push_back(copy);
}

void Copies::commit() {
    groups_.push_back(static_cast<uint32_t>(copies_.size()) - committed_);
    committed_ = static_cast<uint32_t>(copies_.size());
}

void Copies::wait(uint32_t pending) {
    if (groups_.size() <= pending) return;
    const auto groups = static_cast<std::ptrdiff_t>(groups_.size() - pending);
    std::ptrdiff_t done = 0;
    for (std::ptrdiff_t group = 0; group < groups; ++group) done += groups_[static_cast<size_t>(group)];
    for (std::ptrdiff_t i = 0; i < done; ++i) {
        const Copy& copy = copies_[static_cast<size_t>(i)];
        note_write(copy.to, 16);
        memcpy(copy.to, copy.data, 16);
    }
    groups_.erase(groups_.begin(), groups_.begin() + groups);
    copies_.erase(copies_.begin(), copies_.begin() + done);
    committed_ -= static_cast<uint32_t>(done);
}

}  // namespace sim
