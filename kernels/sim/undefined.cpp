// Receives what the compiler's checks of undefined behaviour find in kernels (-fsanitize=alignment,null,… without
// recovery). The layouts are those that GCC and Clang share.
#include "machine.h"

namespace {

struct Location {
    const char* file;
    uint32_t line, column;
};

struct Type {
    uint16_t kind, info;
    char name[1];
};

struct TypeMismatch {
    Location location;
    const Type* type;
    unsigned char log_alignment, access;
};

struct OutOfBounds {
    Location location;
    const Type *array, *index;
};

struct Shift {
    Location location;
    const Type *left, *right;
};

struct Arithmetic {
    Location location;
    const Type* type;
};

struct Cast {
    Location location;
    const Type *from, *to;
};

sim::Site site(const Location& location) { return {location.file, location.line}; }

}  // namespace

extern "C" {

[[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* data, uintptr_t address) {
    if (address == 0) sim::fail(site(data->location), "null pointer to %s used", data->type->name);
    sim::fail(site(data->location), "%s at address %#zx is not aligned to %u bytes", data->type->name,
              static_cast<size_t>(address), 1u << data->log_alignment);
}

[[noreturn]] void __ubsan_handle_out_of_bounds_abort(OutOfBounds* data, uintptr_t index) {
    sim::fail(site(data->location), "index %lld of array %s", static_cast<long long>(index), data->array->name);
}

[[noreturn]] void __ubsan_handle_shift_out_of_bounds_abort(Shift* data, uintptr_t, uintptr_t by) {
    sim::fail(site(data->location), "%s shifted by %lld", data->left->name, static_cast<long long>(by));
}

[[noreturn]] void __ubsan_handle_divrem_overflow_abort(Arithmetic* data, uintptr_t, uintptr_t) {
    sim::fail(site(data->location), "division of %s by zero, or overflow", data->type->name);
}

[[noreturn]] void __ubsan_handle_float_cast_overflow_abort(Cast* data, uintptr_t) {
    sim::fail(site(data->location), "%s converted to %s, which can't hold it", data->from->name, data->to->name);
}

[[noreturn]] void __ubsan_handle_add_overflow_abort(Arithmetic* data, uintptr_t, uintptr_t) {
    sim::fail(site(data->location), "addition overflows %s", data->type->name);
}

[[noreturn]] void __ubsan_handle_sub_overflow_abort(Arithmetic* data, uintptr_t, uintptr_t) {
    sim::fail(site(data->location), "subtraction overflows %s", data->type->name);
}

[[noreturn]] void __ubsan_handle_mul_overflow_abort(Arithmetic* data, uintptr_t, uintptr_t) {
    sim::fail(site(data->location), "multiplication overflows %s", data->type->name);
}

[[noreturn]] void __ubsan_handle_negate_overflow_abort(Arithmetic* data, uintptr_t) {
    sim::fail(site(data->location), "negation overflows %s", data->type->name);
}
}
