// What is said of a block that failed.
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "block.h"

namespace sim {

static std::string format_list(const char* pattern, va_list arguments) {
    char text[512];
    vsnprintf(text, sizeof text, pattern, arguments);
    return text;
}

std::string format(const char* pattern, ...) {
    va_list arguments;
    va_start(arguments, pattern);
    std::string text = format_list(pattern, arguments);
    va_end(arguments);
    return text;
}

std::string text_of(Site site) {
    const char* slash = strrchr(site.file, '/');
    return format("%s:%u", slash ? slash + 1 : site.file, site.line);
}

// The program in memory.
struct Program {
    uintptr_t begin, end;
};

static const Program& program() {
    static const Program program = [] {
        Program found{};
        dl_iterate_phdr(
            [](dl_phdr_info* info, size_t, void* found) {
                auto* program = static_cast<Program*>(found);
                program->begin = info->dlpi_addr;
                for (int i = 0; i < info->dlpi_phnum; ++i)
                    if (const auto& segment = info->dlpi_phdr[i]; segment.p_type == PT_LOAD)
                        program->end = std::max<uintptr_t>(program->end, info->dlpi_addr + segment.p_vaddr + segment.p_memsz);
                return 1;  // the first is the program itself
            },
            &found);
        return found;
    }();
    return program;
}

bool is_program(uintptr_t at) { return at >= program().begin && at < program().end; }

uint32_t offset_in_program(const void* code) {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(code) - program().begin);
}

const void* at_offset(uint32_t where) { return reinterpret_cast<const void*>(program().begin + where); }

std::string line_of(const void* code) {
    const uint32_t where = offset_in_program(code) - 1;
    FILE* lines = popen(format("addr2line -i -e /proc/%d/exe %#x 2>/dev/null", getpid(), where).c_str(), "r");
    std::string line;
    char text[1024];
    while (lines && line.empty() && fgets(text, sizeof text, lines)) {
        const char* slash = strrchr(text, '/');
        const char* name = slash ? slash + 1 : text;
        const std::string place(name, strcspn(name, " \n"));
        if (place.find(".cu:") != std::string::npos) line = place;
    }
    if (lines) pclose(lines);
    return line.empty() ? format("offset %#x of the program", where) : line;
}

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0); }

void fail(Site site, const char* pattern, ...) {
    va_list arguments;
    va_start(arguments, pattern);
    runner->blame(text_of(site) + ": " + format_list(pattern, arguments));
    va_end(arguments);
    runner->stop();
}

void BlockRunner::blame(const std::string& reason) {
    const Index3& block = running.block;
    error_ = reason + format(" (thread %u of block (%u, %u, %u))", current_, block.x, block.y, block.z);
}

// By a signal that the processor raised.
void BlockRunner::stop_at_access(const void* address, const void* code) {
    const Stack& stack = *threads_[current_].stack;
    const auto* at = static_cast<const unsigned char*>(address);
    if (at < stack.bottom && at >= stack.bottom - stack.size) {
        blame(format("the locals of a thread take more than %zu KiB", stack.size >> 10));
    } else {
        // One further: `code` did it, it isn't where a call returns to.
        const auto* behind = static_cast<const unsigned char*>(code) + 1;
        blame(format("%s: address %p is in no memory", line_of(behind).c_str(), address));
    }
    stop();
}

std::string BlockRunner::situation_of(uint32_t thread) const {
    if (warps_[thread / 32].runnable >> thread % 32 & 1) return "are on their way";
    const Thread& state = threads_[thread];
    if (!state.waits_in) return "returned";
    return std::string("wait in ") + state.waits_in + " at " + text_of(state.site);
}

// The threads of a situation, as ranges.
std::string BlockRunner::who_is(const std::string& situation) const {
    std::string text;
    uint32_t ranges = 0;
    for (uint32_t first = 0; first < count_; ++first) {
        if (situation_of(first) != situation) continue;
        uint32_t last = first;
        while (last + 1 < count_ && situation_of(last + 1) == situation) ++last;
        if (++ranges > 4) return text + ", …";
        text += format(last == first ? "%s%u" : "%s%u–%u", ranges > 1 ? ", " : "", first, last);
        first = last;
    }
    return text;
}

// Who waits where.
std::string BlockRunner::stuck() const {
    std::string text;
    std::vector<std::string> told;
    for (uint32_t thread = 0; thread < count_; ++thread) {
        const std::string situation = situation_of(thread);
        if (std::find(told.begin(), told.end(), situation) != told.end()) continue;
        text += told.empty() ? "threads " : "; threads ";
        text += who_is(situation) + format(" of %u ", count_) + situation;
        told.push_back(situation);
    }
    const Index3& block = running.block;
    return text + format(" in block (%u, %u, %u)", block.x, block.y, block.z);
}

}  // namespace sim
