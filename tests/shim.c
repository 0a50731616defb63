/* Disturbs a program at one of its file operations: it fails, is stopped, or is killed there.
 *
 *   cc -shared -fPIC -o shim.so shim.c -ldl
 *   SHIM_ROOT=/data LD_PRELOAD=./shim.so SHIM_LOG=ops nnu-plan …                  lists the operations, numbered from 1
 *   SHIM_ROOT=/data LD_PRELOAD=./shim.so SHIM_MODE=kill SHIM_AT=7 nnu-plan …      SIGKILL at the seventh
 *
 * Operations are those that change what lies below SHIM_ROOT, an absolute path: open for writing, write, fsync, rename,
 * unlink, mkdir, rmdir, flock. Modes:
 *   kill, term, stop   the signal before the operation; a write is half done when SIGKILL comes
 *   fail               the operation fails with SHIM_ERRNO, and so do the SHIM_TIMES - 1 that follow
 *   short              every read and write below the root does part of what is asked, and some are interrupted (EINTR) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum mode { LIST, KILL, TERM, STOP, FAIL, SHORT };

static enum mode mode;
static const char *root;
static long at, times = 1;
static int error = ENOSPC, list = -1;
static atomic_long operations, reads;

__attribute__((constructor)) static void begin(void) {
    const char *names[] = {"list", "kill", "term", "stop", "fail", "short"};
    const char *s = getenv("SHIM_MODE");
    for (int i = 0; s && i < 6; i++)
        if (!strcmp(s, names[i])) mode = i;
    root = getenv("SHIM_ROOT");
    if ((s = getenv("SHIM_AT"))) at = atol(s);
    if ((s = getenv("SHIM_TIMES"))) times = atol(s);
    if ((s = getenv("SHIM_ERRNO"))) error = atoi(s);
    if ((s = getenv("SHIM_LOG"))) list = syscall(SYS_openat, AT_FDCWD, s, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int below(const char *path) { return root && !strncmp(path, root, strlen(root)); }

static int file_below(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    path[n < 0 ? 0 : n] = 0;
    return below(path);
}

/* Counts an operation; whether it must fail. `half` is called if the process dies in its middle. */
static int disturbed(const char *what, const char *path, void (*half)(void *), void *of) {
    long n = atomic_fetch_add(&operations, 1) + 1;
    if (list >= 0) {
        char line[4200];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", n, what, path);
        syscall(SYS_write, list, line, length);
    }
    if (mode == FAIL && n >= at && n < at + times) {
        errno = error;
        return 1;
    }
    if (n != at) return 0;
    if (mode == KILL) {
        if (half) half(of);
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    if (mode == TERM) syscall(SYS_kill, getpid(), SIGTERM);
    if (mode == STOP) syscall(SYS_kill, getpid(), SIGSTOP);
    return 0;
}

#define REAL(name)                                 \
    static __typeof__(name) *real;                 \
    if (!real) real = dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                                                                     \
    int name(const char *path, int flags, ...) {                                                       \
        REAL(name);                                                                                    \
        va_list rest;                                                                                  \
        va_start(rest, flags);                                                                         \
        mode_t permissions = va_arg(rest, mode_t);                                                     \
        va_end(rest);                                                                                  \
        int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);                             \
        if (writes && below(path) && disturbed("open", path, 0, 0)) return -1;                         \
        return real(path, flags, permissions);                                                         \
    }
OPEN(open)
OPEN(open64)

struct piece {
    ssize_t (*real)(int, const void *, size_t);
    int fd;
    const void *bytes;
    size_t count;
};

static void write_half(void *of) {
    struct piece *piece = of;
    piece->real(piece->fd, piece->bytes, piece->count / 2);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    char path[4096];
    if (!file_below(fd, path)) return real(fd, bytes, count);
    struct piece piece = {real, fd, bytes, count};
    if (disturbed("write", path, write_half, &piece)) return -1;
    if (mode != SHORT || count < 2) return real(fd, bytes, count);
    long n = atomic_fetch_add(&reads, 1);
    if (n % 5 == 0) {
        errno = EINTR;
        return -1;
    }
    return real(fd, bytes, n % 3 ? count / 2 : 1 + count / 7);
}

ssize_t read(int fd, void *bytes, size_t count) {
    REAL(read);
    char path[4096];
    if (mode != SHORT || count < 2 || !file_below(fd, path)) return real(fd, bytes, count);
    long n = atomic_fetch_add(&reads, 1);
    if (n % 5 == 0) {
        errno = EINTR;
        return -1;
    }
    return real(fd, bytes, n % 3 ? count / 2 : 1 + count / 7);
}

#define ON_FILE(name, declared, passed)                               \
    int name declared {                                               \
        REAL(name);                                                   \
        char path[4096];                                              \
        if (file_below(fd, path) && disturbed(#name, path, 0, 0)) return -1; \
        return real passed;                                           \
    }
ON_FILE(fsync, (int fd), (fd))
ON_FILE(fdatasync, (int fd), (fd))
ON_FILE(flock, (int fd, int operation), (fd, operation))

#define ON_PATH(name, declared, passed)                               \
    int name declared {                                               \
        REAL(name);                                                   \
        if (below(path) && disturbed(#name, path, 0, 0)) return -1;   \
        return real passed;                                           \
    }
ON_PATH(rename, (const char *path, const char *to), (path, to))
ON_PATH(unlink, (const char *path), (path))
ON_PATH(rmdir, (const char *path), (path))
ON_PATH(mkdir, (const char *path, mode_t permissions), (path, permissions))
