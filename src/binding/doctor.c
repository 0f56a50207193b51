/* The doctor as the rest of the binding sees it: thresholds, one watch per run of a loop, and what
 * has to be done once per process. */
#include "binding/watch.h"
#include "binding/exam.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "io/reporter.h"

#define THRESHOLD_DEFAULT_NS (50 * TAUT_NS_PER_MS)
#define THRESHOLD_MIN_NS TAUT_NS_PER_MS
#define THRESHOLD_MAX_S 3600.0

/* ---- thresholds ---- */

static int seconds_to_ns(double seconds, uint64_t *ns) {
    if (!(seconds > 0.0) || seconds > THRESHOLD_MAX_S)
        return -1;
    *ns = (uint64_t)(seconds * 1e9);
    if (*ns < THRESHOLD_MIN_NS)
        *ns = THRESHOLD_MIN_NS;
    return 0;
}

/* "20ms", "0.5s", "500us", "0.05" (seconds), "off", "0". 0, or -1 when it is none of these. */
static int parse_threshold(const char *text, uint64_t *ns) {
    char number[32];
    size_t digits = strspn(text, "0123456789.");
    const char *unit = text + digits;
    if (strcmp(text, "off") == 0 || strcmp(text, "0") == 0) {
        *ns = 0;
        return 0;
    }
    if (digits == 0 || digits >= sizeof number)
        return -1;
    memcpy(number, text, digits);
    number[digits] = '\0';
    /* Not strtod: it follows the locale. */
    char *end;
    double value = PyOS_string_to_double(number, &end, NULL);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return -1;
    }
    if (*end != '\0')
        return -1;
    if (strcmp(unit, "ms") == 0)
        value /= 1e3;
    else if (strcmp(unit, "us") == 0)
        value /= 1e6;
    else if (strcmp(unit, "s") != 0 && *unit != '\0')
        return -1;
    return seconds_to_ns(value, ns);
}

uint64_t taut_doctor_threshold_default_ns(void) {
    static int complained;
    uint64_t ns = THRESHOLD_DEFAULT_NS;
    const char *text = getenv("TAUT_STALL");
    if (text != NULL && *text != '\0' && parse_threshold(text, &ns) < 0) {
        if (!complained)
            fprintf(stderr, "taut: TAUT_STALL=%.40s is not a duration such as 50ms, 0.05 or off\n",
                    text);
        complained = 1;
        ns = THRESHOLD_DEFAULT_NS;
    }
    return ns;
}

PyObject *taut_doctor_threshold_get(uint64_t threshold_ns) {
    if (threshold_ns == 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble((double)threshold_ns / 1e9);
}

static int threshold_from(PyObject *value, uint64_t *ns) {
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "stall_threshold cannot be deleted; None switches it off");
        return -1;
    }
    if (value == Py_None) {
        *ns = 0;
        return 0;
    }
    if (PyUnicode_Check(value)) {
        const char *text = PyUnicode_AsUTF8(value);
        if (text == NULL)
            return -1;
        if (parse_threshold(text, ns) == 0)
            return 0;
        PyErr_Format(PyExc_ValueError, "%R is not a duration such as '50ms', '0.05' or 'off'",
                     value);
        return -1;
    }
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (seconds_to_ns(seconds, ns) == 0)
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "a stall threshold is above 0 and at most %d seconds (None: off), not %R",
                 (int)THRESHOLD_MAX_S, value);
    return -1;
}

int taut_doctor_threshold_set(PyObject *value, uint64_t *threshold_ns, taut_doctor_watch *watch) {
    if (threshold_from(value, threshold_ns) < 0)
        return -1;
    if (watch != NULL)
        taut_watchdog_threshold_set(&watch->target, *threshold_ns);
    /* The run of one of our loops that began with the threshold off is watched from here on. */
    if (watch != NULL && watch->id == 0 && *threshold_ns > 0 && !watch->started)
        watch->started = taut_doctor_watch_start(watch) == 0;
    return 0;
}

/* ---- watches ---- */

static uint64_t examine(void *ctx, uint64_t now_ns) {
    taut_doctor_watch *w = ctx;
    int64_t id = atomic_load_explicit(&w->target.pulse->thread_id, memory_order_relaxed);
    if (id != 0)
        taut_host_look(&w->host, w->target.pulse, (pid_t)id, now_ns);
    return taut_exam_ask(ctx, now_ns);
}

static const taut_watchdog_ops loop_ops = {
    .examine = examine,
    .suspect = taut_stall_suspect,
    .capture = taut_stall_capture,
    .noted = taut_stall_noted,
    .over = taut_stall_over,
    .report = taut_stall_report,
    .ended = taut_stall_ended,
    .unshown = taut_stall_unshown,
};

taut_doctor_thread taut_doctor_thread_here(PyThreadState *tstate) {
    taut_doctor_thread t = {.tstate = tstate, .native_id = (pid_t)syscall(SYS_gettid)};
    if (pthread_getcpuclockid(pthread_self(), &t.cpu_clock) != 0)
        t.cpu_clock = CLOCK_THREAD_CPUTIME_ID;
    return t;
}

void taut_doctor_watch_init(taut_doctor_watch *w, taut_pulse *pulse, uint64_t threshold_ns) {
    w->target = (taut_watchdog_target){.pulse = pulse, .ops = &loop_ops, .ctx = w, .wait_fd = -1};
    atomic_store_explicit(&w->target.threshold_ns, threshold_ns, memory_order_relaxed);
    pthread_mutex_init(&w->lock, NULL);
    w->to_stderr = 1;
}

void taut_doctor_watch_thread_set(taut_doctor_watch *w, const taut_doctor_thread *thread) {
    pthread_mutex_lock(&w->lock);
    w->thread = *thread;
    pthread_mutex_unlock(&w->lock);
    atomic_store_explicit(&w->target.pulse->thread_id, thread->native_id, memory_order_relaxed);
}

static void add_library(PyObject *path, int parent) {
    char *slash, copy[1024];
    const char *text = path != NULL && PyUnicode_Check(path) ? PyUnicode_AsUTF8(path) : NULL;
    if (text == NULL || strlen(text) >= sizeof copy)
        return;
    memcpy(copy, text, strlen(text) + 1);
    if (parent && (slash = strrchr(copy, '/')) != NULL)
        *slash = '\0';
    taut_stall_library_add(copy);
}

/* The directories of the standard library and of taut itself. */
static void find_libraries(void) {
    PyObject *os = PyImport_ImportModule("os");
    PyObject *file = os != NULL ? PyObject_GetAttrString(os, "__file__") : NULL;
    add_library(file, 1);
    Py_XDECREF(file);
    Py_XDECREF(os);
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    PyObject *taut = modules != NULL ? PyDict_GetItemString(modules, "taut") : NULL;
    PyObject *path = taut != NULL ? PyObject_GetAttrString(taut, "__path__") : NULL;
    PyObject *list = path != NULL ? PySequence_Fast(path, "__path__") : NULL;
    for (Py_ssize_t i = 0; list != NULL && i < PySequence_Fast_GET_SIZE(list); i++)
        add_library(PySequence_Fast_GET_ITEM(list, i), 0);
    Py_XDECREF(list);
    Py_XDECREF(path);
    PyErr_Clear(); /* a report then counts too much as the user's own */
}

PyDoc_STRVAR(shutdown_doc, "stall_shutdown() -> None\n\nEnds the watchdog's thread. Runs by itself "
                           "when the interpreter exits.");
static PyObject *stall_shutdown(PyObject *module, PyObject *unused) {
    Py_BEGIN_ALLOW_THREADS taut_watchdog_shutdown();
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}
PyDoc_STRVAR(stderr_doc, "stall_stderr(on, /) -> None\n\nWhether stalls of taut's own loops, "
                         "and other findings, are told on stderr.");
static PyObject *stall_stderr(PyObject *module, PyObject *on) {
    int yes = PyObject_IsTrue(on);
    if (yes < 0)
        return NULL;
    atomic_store_explicit(&taut_stall_own_to_stderr, yes, memory_order_relaxed);
    taut_reporter_stderr_set(yes);
    Py_RETURN_NONE;
}
PyDoc_STRVAR(thread_doc, "stall_thread_id() -> int\n\nThe kernel's id of the watchdog's thread, 0 "
                         "when there is none.");
static PyObject *stall_thread_id(PyObject *module, PyObject *unused) {
    return PyLong_FromLong(taut_watchdog_thread_id());
}
PyDoc_STRVAR(signal_doc, "stall_signal_handle(number, handle, /) -> None\n\nSays which Handle is "
                         "run for a signal; None: none.");
static PyObject *stall_signal_handle(PyObject *module, PyObject *args) {
    int number;
    PyObject *handle;
    if (!PyArg_ParseTuple(args, "iO:stall_signal_handle", &number, &handle))
        return NULL;
    if (number <= 0 || number >= TAUT_STALL_SIGNALS) {
        PyErr_Format(PyExc_ValueError, "invalid signal number %d", number);
        return NULL;
    }
    atomic_store_explicit(&taut_stall_signal_handles[number], handle == Py_None ? NULL : handle,
                          memory_order_relaxed);
    Py_RETURN_NONE;
}
static PyMethodDef doctor_methods[] = {
    {"stall_signal_handle", stall_signal_handle, METH_VARARGS, signal_doc},
    {"stall_stderr", stall_stderr, METH_O, stderr_doc},
    {"stall_thread_id", stall_thread_id, METH_NOARGS, thread_doc},
    {"stall_shutdown", stall_shutdown, METH_NOARGS, shutdown_doc},
    {NULL},
};
static PyMethodDef shutdown_def = {"stall_shutdown", stall_shutdown, METH_NOARGS, shutdown_doc};

/* The interpreter must not be taken down under a walk that has had to ask for the GIL. */
static void shutdown_at_exit(void) {
    PyObject *function = PyCFunction_New(&shutdown_def, NULL);
    PyObject *atexit = PyImport_ImportModule("atexit");
    PyObject *done = atexit != NULL && function != NULL
                         ? PyObject_CallMethod(atexit, "register", "O", function)
                         : NULL;
    Py_XDECREF(done);
    Py_XDECREF(atexit);
    Py_XDECREF(function);
    PyErr_Clear();
}

int taut_doctor_watch_start(taut_doctor_watch *w) {
    static int prepared;
    if (!prepared) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        (void)taut_frames_init(); /* when it fails every report says so, and why */
        find_libraries();
        shutdown_at_exit();
        PyErr_Restore(type, value, traceback);
        prepared = 1;
    }
    return taut_watchdog_add(&w->target);
}

void taut_doctor_watch_stop(taut_doctor_watch *w) {
    if (taut_watchdog_busy(&w->target)) {
        Py_BEGIN_ALLOW_THREADS taut_watchdog_remove(&w->target);
        Py_END_ALLOW_THREADS
    } else {
        taut_watchdog_remove(&w->target);
    }
}

taut_doctor_watch *taut_doctor_loop_start(taut_pulse *pulse, uint64_t threshold_ns, PyObject *loop,
                                          struct taut_exam *exam) {
    taut_doctor_watch *w = taut_calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    taut_doctor_watch_init(w, pulse, threshold_ns);
    PyThreadState *tstate = PyThreadState_Get();
    w->thread = taut_doctor_thread_here(tstate);
    atomic_store_explicit(&w->exam, exam, memory_order_relaxed);
    w->target.examined = exam != NULL;
    w->started = (threshold_ns > 0 || exam != NULL) && taut_doctor_watch_start(w) == 0;
    taut_doctor_thread here = w->thread;
    here.runner = taut_frames_current(tstate); /* known once the layout has been checked */
    taut_doctor_watch_thread_set(w, &here);
    return w;
}

void taut_doctor_loop_stop(taut_doctor_watch *watch) {
    if (watch == NULL)
        return;
    taut_doctor_watch_stop(watch);
    pthread_mutex_destroy(&watch->lock);
    taut_free(watch);
}

int taut_doctor_add(PyObject *module, taut_state *st) {
    if (PyModule_AddFunctions(module, taut_stall_queue_methods) < 0 ||
        PyModule_AddFunctions(module, doctor_methods) < 0)
        return -1;
    return taut_stall_watch_type_add(module, st);
}
