/* Watching a uvloop loop: a prepare and a check handle of libuv say when it is about to wait and
 * when it has waited. libuv runs I/O callbacks in between, before the check, so that phase is
 * TAUT_PHASE_UNSURE and the kernel is asked which of the two it is. libuv's functions are taken
 * from the library that uvloop itself has loaded. */
#include "binding/attach.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/sys.h"

#define UV_CHECK 2 /* uv_handle_type, fixed by libuv's ABI */
#define UV_PREPARE 9
#define HANDLE_SIZE_MAX 512

/* A libuv handle begins with the user's pointer; uvloop takes that of every handle for one of its
 * own objects when it closes a loop, so it must be one (`keeper`). */
typedef union {
    void *data;
    uint64_t room[HANDLE_SIZE_MAX / sizeof(uint64_t)];
} uv_handle;

typedef struct {
    int (*prepare_init)(void *loop, void *handle);
    int (*prepare_start)(void *handle, void (*fn)(void *handle));
    int (*check_init)(void *loop, void *handle);
    int (*check_start)(void *handle, void (*fn)(void *handle));
    void (*close)(void *handle, void (*fn)(void *handle));
    void (*unref)(void *handle);
    size_t (*handle_size)(int type);
    int (*backend_fd)(const void *loop);
} uv_api;

/* Belongs to libuv until both handles are closed; freed by the second one's close callback. */
struct taut_uv_hooks {
    uv_handle prepare, check;
    uv_api uv;
    taut_stall_watch *self; /* NULL once the watch has let go */
    int handles;
};

static int find_api(void *library, uv_api *uv) {
    const struct {
        const char *name;
        void **to;
    } wanted[] = {
        {"uv_prepare_init", (void **)&uv->prepare_init},
        {"uv_prepare_start", (void **)&uv->prepare_start},
        {"uv_check_init", (void **)&uv->check_init},
        {"uv_check_start", (void **)&uv->check_start},
        {"uv_close", (void **)&uv->close},
        {"uv_unref", (void **)&uv->unref},
        {"uv_handle_size", (void **)&uv->handle_size},
        {"uv_backend_fd", (void **)&uv->backend_fd},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if ((*wanted[i].to = dlsym(library, wanted[i].name)) == NULL)
            return -1;
    return uv->handle_size(UV_CHECK) <= HANDLE_SIZE_MAX &&
                   uv->handle_size(UV_PREPARE) <= HANDLE_SIZE_MAX
               ? 0
               : -1;
}

/* Both run on the loop's thread, without the GIL. */
static void on_prepare(void *handle) {
    taut_stall_watch *self = TAUT_CONTAINER(handle, struct taut_uv_hooks, prepare)->self;
    if (self != NULL)
        taut_pulse_phase(&self->pulse, TAUT_PHASE_UNSURE);
}

static void on_check(void *handle) {
    taut_stall_watch *self = TAUT_CONTAINER(handle, struct taut_uv_hooks, check)->self;
    if (self == NULL)
        return;
    PyThreadState *tstate = PyGILState_GetThisThreadState();
    taut_frame_id runner = taut_frames_current(tstate);
    if (tstate != self->tstate || memcmp(&runner, &self->runner, sizeof runner) != 0) {
        taut_doctor_thread here = taut_doctor_thread_here(tstate);
        here.runner = self->runner = runner;
        taut_doctor_watch_thread_set(&self->watch, &here);
        self->tstate = tstate;
    }
    uint32_t parked = atomic_load_explicit(&self->pulse.parked, memory_order_relaxed);
    taut_pulse_phase(&self->pulse, TAUT_PHASE_RUNNING);
    if (parked)
        taut_watchdog_nudge();
}

static void on_closed(void *handle) {
    struct taut_uv_hooks *hooks = ((uv_handle *)handle)->data;
    if (--hooks->handles == 0)
        taut_free(hooks);
}

/* ---- the ops, on the watchdog's thread ---- */

static ssize_t read_proc(const taut_stall_watch *self, const char *name, char *to, size_t size) {
    char path[64];
    pid_t id = (pid_t)atomic_load_explicit(&self->pulse.thread_id, memory_order_relaxed);
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)id, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, to, size - 1);
    close(fd);
    to[n > 0 ? n : 0] = '\0';
    return n;
}

/* In the system call that waits on the loop's own epoll fd? When the kernel does not tell, yes: no
 * report is better than a wrong one. */
static int uv_waiting(void *ctx) {
    taut_stall_watch *self = TAUT_CONTAINER(ctx, taut_stall_watch, watch);
    char text[256], *end;
    if (read_proc(self, "syscall", text, sizeof text) <= 0)
        return 1;
    if (text[0] < '0' || text[0] > '9')
        return 0; /* "running" */
    long number = strtol(text, &end, 10);
    if (strtol(end, NULL, 16) != self->watch.target.wait_fd)
        return 0;
#ifdef SYS_epoll_wait
    if (number == SYS_epoll_wait)
        return 1;
#endif
#ifdef SYS_epoll_pwait2
    if (number == SYS_epoll_pwait2)
        return 1;
#endif
    return number == SYS_epoll_pwait;
}

/* Besides the queue: each data_received is preceded by a read(2), which the kernel counts. */
static uint64_t uv_progress(void *ctx) {
    taut_stall_watch *self = TAUT_CONTAINER(ctx, taut_stall_watch, watch);
    uint64_t progress = taut_stall_watch_progress(ctx);
    char text[256], *reads;
    if (atomic_load_explicit(&self->pulse.phase, memory_order_relaxed) == TAUT_PHASE_UNSURE &&
        read_proc(self, "io", text, sizeof text) > 0 && (reads = strstr(text, "syscr:")) != NULL)
        progress += strtoull(reads + 6, NULL, 10);
    return progress;
}

static const taut_watchdog_ops uv_ops = {
    .progress = uv_progress,
    .waiting = uv_waiting,
    .suspect = taut_stall_suspect,
    .capture = taut_stall_capture,
    .noted = taut_stall_noted,
    .over = taut_stall_over,
    .report = taut_stall_report,
    .ended = taut_stall_ended,
    .unshown = taut_stall_unshown,
};

/* ---- attaching ---- */

static struct taut_uv_hooks *hooks_new(void *loop, const char *library, PyObject *keeper) {
    struct taut_uv_hooks *hooks = taut_calloc(1, sizeof *hooks);
    if (hooks == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    void *dl = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (dl == NULL || find_api(dl, &hooks->uv) < 0 ||
        hooks->uv.prepare_init(loop, &hooks->prepare) != 0 ||
        hooks->uv.check_init(loop, &hooks->check) != 0) {
        /* The two inits cannot fail in any libuv; nothing has been registered before them. */
        PyErr_SetString(PyExc_TypeError, "this uvloop does not export libuv's functions");
        taut_free(hooks);
        hooks = NULL;
    } else {
        hooks->handles = 2;
        hooks->prepare.data = hooks->check.data = keeper;
    }
    if (dl != NULL)
        dlclose(dl); /* RTLD_NOLOAD only added a reference; uvloop stays loaded */
    return hooks;
}

PyObject *taut_stall_watch_uv(PyObject *op, PyObject *args) {
    taut_stall_watch *self = (taut_stall_watch *)op;
    PyObject *capsule, *ready, *keeper;
    const char *library;
    if (!PyArg_ParseTuple(args, "OsOO:watch_uv", &capsule, &library, &ready, &keeper))
        return NULL;
    void *loop = PyCapsule_GetPointer(capsule, NULL);
    if (loop == NULL || taut_stall_watch_use(self, ready) < 0)
        return NULL;
    struct taut_uv_hooks *hooks = hooks_new(loop, library, keeper);
    if (hooks == NULL)
        return NULL;
    hooks->uv.prepare_start(&hooks->prepare, on_prepare);
    hooks->uv.check_start(&hooks->check, on_check);
    hooks->uv.unref(&hooks->prepare); /* they keep no loop running */
    hooks->uv.unref(&hooks->check);
    hooks->self = self;
    self->hooks = hooks;
    self->keeper = Py_NewRef(keeper);
    self->watch.runner_needed = 1;
    self->watch.target.wait_fd = hooks->uv.backend_fd(loop);
    if (taut_stall_watch_start(self, &uv_ops) < 0) {
        taut_stall_watch_uv_end(self);
        return NULL;
    }
    Py_RETURN_NONE;
}

void taut_stall_watch_uv_end(taut_stall_watch *self) {
    struct taut_uv_hooks *hooks = self->hooks;
    if (hooks == NULL)
        return;
    self->hooks = NULL;
    hooks->self = NULL;
    hooks->uv.close(&hooks->prepare, on_closed);
    hooks->uv.close(&hooks->check, on_closed);
    hooks->prepare.data = hooks->check.data = hooks; /* uvloop leaves closing handles alone */
}
