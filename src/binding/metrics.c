/* The module's functions for metrics: a loop's numbers, the collector's, and the text that
 * Prometheus reads. */
#include "binding/err.h"
#include "binding/exam.h"
#include "io/metrics.h"

#define LOAD(v) atomic_load_explicit(&(v), memory_order_relaxed)

static double in_seconds(uint64_t ns) {
    return (double)ns / 1e9;
}

static PyObject *hist_dict(const taut_hist *h) {
    return Py_BuildValue("{sKsdsdsdsdsd}", "count", (unsigned long long)LOAD(h->count), "sum",
                         in_seconds(LOAD(h->sum)), "max", in_seconds(LOAD(h->max)), "p50",
                         in_seconds(taut_hist_quantile(h, 0.5)), "p90",
                         in_seconds(taut_hist_quantile(h, 0.9)), "p99",
                         in_seconds(taut_hist_quantile(h, 0.99)));
}

#define COUNT(field) (unsigned long long)LOAD(v->field)
#define SECONDS(field) in_seconds(LOAD(v->field))
static PyObject *vitals_dict(const taut_vitals *v) {
    uint64_t active_ns, idle_ns, now_ns = taut_sys_now_ns();
    taut_vitals_times(v, now_ns, &active_ns, &idle_ns);
    double utilization = taut_vitals_utilization(v, now_ns) / 1000.0;
    PyObject *lag = hist_dict(&v->lag), *busy = hist_dict(&v->busy), *dict = NULL;
    if (lag != NULL && busy != NULL)
        dict = Py_BuildValue(
            "{sIsOsOsdsdsdsKsKsKsKsdsKsKsdsKsKsKsdsdsKsKsdsdsKsd}", "loop", v->id, "lag", lag,
            "busy", busy, "active", in_seconds(active_ns), "idle", in_seconds(idle_ns),
            "utilization", utilization, "iterations",
            (unsigned long long)LOAD(v->pulse->iterations), "ready", COUNT(ready_last), "ready_max",
            COUNT(ready_max), "stalls", (unsigned long long)LOAD(v->pulse->stalls), "stall_longest",
            in_seconds(LOAD(v->pulse->stall_longest_ns)), "tasks", COUNT(tasks), "tasks_waiting",
            COUNT(tasks_waiting), "oldest_wait", SECONDS(oldest_wait_ns), "executor_queued",
            COUNT(calls_queued), "executor_running", COUNT(calls_running), "executor_calls",
            COUNT(calls), "executor_seconds", SECONDS(calls_ns), "executor_longest",
            SECONDS(call_longest_ns), "lookups_pending", COUNT(lookups_pending), "lookups",
            COUNT(lookups), "lookup_seconds", SECONDS(lookups_ns), "lookup_longest",
            SECONDS(lookup_longest_ns), "examinations", COUNT(examined), "examination_seconds",
            SECONDS(examining_ns));
    Py_XDECREF(lag);
    Py_XDECREF(busy);
    return dict;
}

PyDoc_STRVAR(vitals_doc, "loop_vitals(loop, /) -> dict\n\nA loop's numbers; times in seconds.");
static PyObject *loop_vitals(PyObject *module, PyObject *loop) {
    taut_state *st = taut_state_of(module);
    if (!PyObject_TypeCheck(loop, st->loop_type)) {
        PyErr_Format(PyExc_TypeError, "loop must be a taut loop, not %R", loop);
        return NULL;
    }
    return vitals_dict(&((taut_pyloop *)loop)->core.vitals);
}

static PyObject *gc_vitals(PyObject *module, PyObject *unused) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < TAUT_GC_GENERATIONS; i++) {
        const taut_gc_vitals *v = &taut_vitals_gc[i];
        PyObject *item = Py_BuildValue("{sKsdsdsKsK}", "count", COUNT(count), "pauses",
                                       SECONDS(sum_ns), "longest", SECONDS(longest_ns), "collected",
                                       COUNT(collected), "uncollectable", COUNT(uncollectable));
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *metrics_text(PyObject *module, PyObject *unused) {
    taut_buf text;
    taut_buf_init(&text);
    int rc = taut_metrics_write(&text);
    PyObject *str = rc < 0 ? taut_err_raise(rc)
                           : PyUnicode_DecodeUTF8((const char *)taut_buf_bytes(&text),
                                                  (Py_ssize_t)taut_buf_size(&text), "replace");
    taut_buf_free(&text);
    return str;
}

PyDoc_STRVAR(times_doc, "task_times(task, /) -> tuple[float, float, bool] | None\n\nHow many "
                        "seconds ago a task of taut's own was made, how long ago it last began to "
                        "run, and whether it waits. None: another task.");
static PyObject *task_times(PyObject *module, PyObject *task) {
    taut_state *st = taut_state_of(module);
    if (st->own.task_type == NULL || !PyObject_TypeCheck(task, st->own.task_type) ||
        ((taut_task *)task)->born_ns == 0)
        Py_RETURN_NONE;
    const taut_task *t = (taut_task *)task;
    uint64_t now_ns = taut_sys_now_ns();
    double age = now_ns > t->born_ns ? in_seconds(now_ns - t->born_ns) : 0.0;
    double since = now_ns > t->stepped_ns ? in_seconds(now_ns - t->stepped_ns) : 0.0;
    return Py_BuildValue("(ddO)", age, since, t->aio.waiter != NULL ? Py_True : Py_False);
}

static PyMethodDef methods[] = {
    {"loop_vitals", loop_vitals, METH_O, vitals_doc},
    {"gc_vitals", gc_vitals, METH_NOARGS,
     "gc_vitals() -> list[dict]\n\nThe collector's runs, by generation; times in seconds."},
    {"metrics_text", metrics_text, METH_NOARGS,
     "metrics_text() -> str\n\nAll metrics in Prometheus' text format."},
    {"task_times", task_times, METH_O, times_doc},
    {NULL},
};

int taut_metrics_functions_add(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
