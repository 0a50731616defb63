// A libcuda.so.1 for tests: one "card" whose memory is the host's and whose only kernels that do something are `scale`
// and `fault`. It says what it was asked in a log and fails where a real driver would. It has the functions of a driver
// for CUDA 12.0 and no later one. FAKE_CUDA chooses what it pretends: "card", "no_device", "empty", "stub",
// "broken", "old_driver", "driver_12", "old_card"; FAKE_CUDA_LOG names the log.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, STUB = 34, NO_DEVICE = 100,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, UNKNOWN = 999 };
enum { MEMORY = 1 << 20, SHARED_LIMIT = 99 << 10 };

typedef struct { char name[64]; int shared; } Function;
typedef struct { int tag; } Module;
typedef struct { Function* function; uint32_t blocks; char arguments[24]; } Work;
typedef struct { int count; Work work[64]; } Graph;
typedef struct { int capturing; Graph* graph; } Stream;
typedef struct { int recorded; float time; } Event;

static int started, sticky;
static size_t used;
static float clock_ms;
static _Thread_local int in_context;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is(const char* mode) {
    const char* chosen = getenv("FAKE_CUDA");
    return chosen && !strcmp(chosen, mode);
}

#define LOG(...) do { \
    pthread_mutex_lock(&lock); \
    FILE* f = fopen(getenv("FAKE_CUDA_LOG"), "a"); \
    fprintf(f, __VA_ARGS__), fputc('\n', f), fclose(f); \
    pthread_mutex_unlock(&lock); } while (0)
#define NEED_CONTEXT do { if (!in_context) return INVALID_CONTEXT; if (sticky) return sticky; } while (0)

int cuInit(unsigned flags) {
    if (is("no_device")) return NO_DEVICE;
    if (is("stub")) return STUB;
    if (is("broken")) return UNKNOWN;
    started = 1;
    return SUCCESS;
}
// NVRTC looks for the driver's own cache in here, if a driver is loaded: there is none.
int cuGetExportTable(const void** table, const void* id) { *table = NULL; return INVALID_VALUE; }
int cuGetErrorName(int error, const char** name) {
    *name = error == STUB ? "CUDA_ERROR_STUB_LIBRARY" : error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
        : error == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : error == UNKNOWN ? "CUDA_ERROR_UNKNOWN" : NULL;
    return *name ? SUCCESS : INVALID_VALUE;
}
int cuGetErrorString(int error, const char** text) {
    *text = error == STUB ? "CUDA driver is a stub library" : error == ILLEGAL_ADDRESS
        ? "an illegal memory access was encountered" : error == INVALID_VALUE ? "invalid argument" : NULL;
    return *text ? SUCCESS : INVALID_VALUE;
}
int cuDriverGetVersion(int* version) {
    *version = is("old_driver") ? 11040 : is("driver_12") ? 12040 : 13000;
    return SUCCESS;
}
int cuDeviceGetCount(int* count) {
    if (!started) return NOT_INITIALIZED;
    *count = is("empty") ? 0 : 2;
    return SUCCESS;
}
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal < 2 ? SUCCESS : INVALID_VALUE; }
int cuDeviceGetName(char* name, int length, int device) {
    snprintf(name, length, "Fake %d", device);
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    switch (attribute) {
        case 16: *value = 132; return SUCCESS;           // multiprocessors
        case 75: *value = is("old_card") ? 7 : 9; return SUCCESS;
        case 76: *value = is("old_card") ? 5 : 0; return SUCCESS;
        case 97: *value = SHARED_LIMIT; return SUCCESS;  // shared memory per block, at most
        default: return INVALID_VALUE;
    }
}
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { LOG("flags %u", flags); return SUCCESS; }
int cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = &started;
    LOG("retain %d", device);
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) { LOG("release %d", device); return SUCCESS; }
int cuCtxSetCurrent(void* context) { in_context = context == &started; return SUCCESS; }

int cuModuleLoadData(Module** module, const char* image) {
    NEED_CONTEXT;
    if (memcmp(image, "\x7f" "ELF", 4)) return INVALID_VALUE;
    *module = calloc(1, sizeof(Module));
    LOG("load");
    return SUCCESS;
}
int cuModuleUnload(Module* module) { NEED_CONTEXT; free(module); LOG("unload"); return SUCCESS; }
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    NEED_CONTEXT;
    *function = calloc(1, sizeof(Function));
    strcpy((*function)->name, name);
    (*function)->shared = 48 << 10;
    return SUCCESS;
}
int cuFuncGetAttribute(int* value, int attribute, Function* function) {
    if (attribute != 1) return INVALID_VALUE;
    *value = !strcmp(function->name, "multiply") ? 768 : 0;
    return SUCCESS;
}
int cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute != 8 || value > SHARED_LIMIT) return INVALID_VALUE;
    function->shared = value;
    LOG("shared %s %d", function->name, value);
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    NEED_CONTEXT;
    *free = MEMORY - used, *total = MEMORY;
    return SUCCESS;
}
// The size stands before the block, so that freeing gives it back.
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    NEED_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (used + bytes > MEMORY) return OUT_OF_MEMORY;
    char* block = aligned_alloc(256, 256 + (bytes + 255) / 256 * 256);
    *(size_t*)block = bytes;
    used += bytes;
    *address = (uint64_t)(block + 256);
    return SUCCESS;
}
int cuMemFree_v2(uint64_t address) {
    NEED_CONTEXT;
    char* block = (char*)address - 256;
    used -= *(size_t*)block;
    free(block);
    return SUCCESS;
}
int cuMemHostAlloc(void** address, size_t bytes, unsigned flags) {
    NEED_CONTEXT;
    if (flags) return INVALID_VALUE;
    *address = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    LOG("pin");
    return SUCCESS;
}
int cuMemFreeHost(void* address) { NEED_CONTEXT; free(address); LOG("unpin"); return SUCCESS; }

int cuStreamCreate(Stream** stream, unsigned flags) {
    NEED_CONTEXT;
    *stream = calloc(1, sizeof(Stream));
    LOG("stream %u", flags);
    return SUCCESS;
}
int cuStreamDestroy_v2(Stream* stream) { NEED_CONTEXT; free(stream); LOG("end stream"); return SUCCESS; }
int cuStreamSynchronize(Stream* stream) {
    NEED_CONTEXT;
    LOG("synchronise");
    if (!stream->capturing) return SUCCESS;
    stream->capturing = -1;
    return CAPTURE_UNSUPPORTED;
}
int cuStreamWaitEvent(Stream* stream, Event* event, unsigned flags) {
    NEED_CONTEXT;
    LOG("wait");
    return event->recorded ? SUCCESS : INVALID_HANDLE;
}

static int move(void* to, const void* from, size_t bytes, Stream* stream) {
    NEED_CONTEXT;
    if (!bytes || stream->capturing) return INVALID_VALUE;
    memmove(to, from, bytes);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    LOG("upload %zu", bytes);
    return move((void*)to, from, bytes, stream);
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    LOG("download %zu", bytes);
    return move(to, (void*)from, bytes, stream);
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
    return move((void*)to, (void*)from, bytes, stream);
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* stream) {
    NEED_CONTEXT;
    if (!bytes) return INVALID_VALUE;
    memset((void*)to, value, bytes);
    return SUCCESS;
}

static int run(const Work* work) {
    if (!strcmp(work->function->name, "scale")) {
        struct { const float* x; float* y; uint32_t count; float factor; } args;
        memcpy(&args, work->arguments, sizeof args);
        if (!args.x) return sticky = ILLEGAL_ADDRESS, SUCCESS;
        for (uint32_t i = 0; i < args.count && i < 128 * work->blocks; i++) args.y[i] = args.factor * args.x[i];
    }
    clock_ms += 2.5f;
    return SUCCESS;
}
int cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, Stream* stream, void** parameters, void** extra) {
    NEED_CONTEXT;
    LOG("launch %s %u %u %u × %u %u %u, %u", function->name, x, y, z, threads, ty, tz, shared);
    if (y > 65535 || z > 65535 || (int)shared > function->shared || extra) return INVALID_VALUE;
    Work work = {.function = function, .blocks = x};
    memcpy(work.arguments, parameters[0], sizeof work.arguments);
    if (!stream->capturing) return run(&work);
    stream->graph->work[stream->graph->count++] = work;
    return SUCCESS;
}

int cuEventCreate(Event** event, unsigned flags) {
    NEED_CONTEXT;
    *event = calloc(1, sizeof(Event));
    return flags ? INVALID_VALUE : SUCCESS;
}
int cuEventRecord(Event* event, Stream* stream) {
    NEED_CONTEXT;
    event->recorded = 1, event->time = clock_ms;
    return SUCCESS;
}
int cuEventElapsedTime(float* ms, Event* from, Event* to) {
    NEED_CONTEXT;
    *ms = to->time - from->time;
    return SUCCESS;
}
int cuEventDestroy_v2(Event* event) { NEED_CONTEXT; free(event); LOG("end event"); return SUCCESS; }

int cuStreamBeginCapture_v2(Stream* stream, int mode) {
    NEED_CONTEXT;
    LOG("capture %d", mode);
    stream->capturing = 1, stream->graph = calloc(1, sizeof(Graph));
    return SUCCESS;
}
int cuStreamEndCapture(Stream* stream, Graph** graph) {
    NEED_CONTEXT;
    int valid = stream->capturing == 1;
    stream->capturing = 0;
    *graph = valid ? stream->graph : NULL;
    if (!valid) free(stream->graph);
    return valid ? SUCCESS : CAPTURE_INVALIDATED;
}
int cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long flags) {
    NEED_CONTEXT;
    *executable = malloc(sizeof(Graph));
    **executable = *graph;
    return SUCCESS;
}
int cuGraphDestroy(Graph* graph) { NEED_CONTEXT; free(graph); LOG("end template"); return SUCCESS; }
int cuGraphUpload(Graph* graph, Stream* stream) { NEED_CONTEXT; return SUCCESS; }
int cuGraphLaunch(Graph* graph, Stream* stream) {
    NEED_CONTEXT;
    LOG("replay %d", graph->count);
    for (int i = 0; i < graph->count; i++) run(&graph->work[i]);
    return SUCCESS;
}
int cuGraphExecDestroy(Graph* graph) { NEED_CONTEXT; free(graph); LOG("end graph"); return SUCCESS; }
