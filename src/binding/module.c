/* The extension module taut._core: multi-phase initialisation and module-level functions. */
#include "binding/compat.h"
#include "binding/state.h"
#include "binding/exam.h"
#include "binding/handle.h"
#include "binding/notice.h"
#include "binding/process.h"
#include "binding/task.h"
#include "binding/task_name.h"
#include "binding/task_notes.h"
#include "binding/task_stuck.h"
#include "binding/trace.h"
#include "base/mem.h"

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    return taut_state_traverse(taut_state_of(module), visit, arg);
}
static int module_clear(PyObject *module) {
    return taut_state_clear(taut_state_of(module));
}
static void module_free(void *module) {
    (void)taut_state_clear(taut_state_of(module));
}

static int module_exec(PyObject *module) {
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "taut does not support free-threaded builds of CPython");
    return -1;
#endif
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "taut does not support subinterpreters");
        return -1;
    }
    taut_state *st = taut_state_of(module);
    if (taut_context_check() < 0 || taut_state_init(module, st) < 0 ||
        taut_handle_types_add(module, st) < 0 || taut_loop_type_add(module, st) < 0 ||
        taut_future_type_add(module, st) < 0 || taut_task_type_add(module, st) < 0 ||
        taut_transport_type_add(module, st) < 0 || taut_tls_type_add(module, st) < 0 ||
        taut_pipe_types_add(module, st) < 0 || taut_dgram_type_add(module, st) < 0 ||
        taut_server_type_add(module, st) < 0 || taut_op_type_add(module, st) < 0 ||
        taut_executor_type_add(module, st) < 0 || taut_child_type_add(module, st) < 0 ||
        taut_process_pipe_type_add(module, st) < 0 ||
        taut_process_transport_type_add(module, st) < 0 || taut_doctor_add(module, st) < 0 ||
        taut_request_type_add(module, st) < 0 || taut_findings_functions_add(module, st) < 0 ||
        taut_notice_functions_add(module, st) < 0 || taut_task_note_functions_add(module, st) < 0 ||
        taut_exam_functions_add(module) < 0 || taut_listing_functions_add(module, st) < 0 ||
        taut_trace_functions_add(module) < 0)
        return -1;
    return 0;
}

PyDoc_STRVAR(mem_stats_doc, "mem_stats() -> dict[str, int]\n\n"
                            "Counters of the core's allocator: allocs and frees (calls), "
                            "live_blocks, live_bytes.");
static PyObject *mem_stats(PyObject *module, PyObject *unused) {
    taut_mem_stats s;
    taut_mem_stats_get(&s);
    return Py_BuildValue("{sKsKsKsK}", "allocs", (unsigned long long)s.allocs, "frees",
                         (unsigned long long)s.frees, "live_blocks",
                         (unsigned long long)s.live_blocks, "live_bytes",
                         (unsigned long long)s.live_bytes);
}

PyDoc_STRVAR(set_task_callbacks_doc,
             "set_task_callbacks(step, wakeup, task, /) -> None\n\n"
             "Teaches the loop what _asyncio hands to call_soon for a task's step and wake-up: "
             "those calls are queued without a Handle, and a stall report names the task. Called "
             "once by taut.loop with a task that has a name of its own.");
static PyObject *set_task_callbacks(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "set_task_callbacks() takes exactly 3 arguments");
        return NULL;
    }
    taut_state *st = taut_state_of(module);
    PyTypeObject *step = Py_TYPE(args[0]);
    if (PyCFunction_CheckExact(args[0]) || PyFunction_Check(args[0]) || PyMethod_Check(args[0])) {
        PyErr_Format(PyExc_TypeError, "step must be _asyncio's step wrapper, not %R", args[0]);
        return NULL;
    }
    Py_XSETREF(st->task_step_type, (PyTypeObject *)Py_NewRef((PyObject *)step));
    if (PyCFunction_CheckExact(args[1])) { /* 3.12+: a built-in method of the task */
        st->task_wakeup_def = ((PyCFunctionObject *)args[1])->m_ml;
    } else if (!PyFunction_Check(args[1]) && !PyMethod_Check(args[1])) {
        Py_XSETREF(st->task_wakeup_type, (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(args[1])));
    }
    taut_task_name_learn(args[2], args[0], args[1], st->handle_type);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(spawn_doc,
             "spawn(options, /) -> Child\n\n"
             "Starts a program, given what subprocess.Popen's constructor has made of its options "
             "and hands to _execute_child() (whose preexec_fn is not looked at), and closes the "
             "child's ends of pipes. OSError when it cannot be started.");

PyDoc_STRVAR(live_tasks_doc, "live_tasks() -> list\n\nEvery Task of taut's own that is not done.");
static PyMethodDef module_methods[] = {
    {"gc_event", (PyCFunction)(void (*)(void))taut_pyloop_gc_event, METH_FASTCALL,
     "gc_event(phase, info, /) -> None\n\nFor gc.callbacks: lets a stall report name a "
     "collection."},
    {"in_gc", taut_pyloop_in_gc, METH_NOARGS,
     "in_gc() -> bool\n\nWhether a garbage collection runs on this thread."},
    {"mem_stats", mem_stats, METH_NOARGS, mem_stats_doc},
    {"live_tasks", taut_live_tasks, METH_NOARGS, live_tasks_doc},
    {"task_created_at", taut_task_created_at, METH_O,
     "task_created_at(task, /) -> tuple[str, int, str] | None\n\nFile, line and function that "
     "made a Task of taut's own; asyncio's and taut's code is passed over. None: not known."},
    {"task_awaited", taut_task_awaited, METH_O,
     "task_awaited(task, /) -> list\n\nWhat the task waits for; if that is a task, what it waits "
     "for, and so on."},
    {"task_sites_enable", taut_task_sites_enable, METH_VARARGS,
     "task_sites_enable(dirs, libraries, runners, /) -> bool\n\nFrom now on tasks note who makes "
     "them; `dirs` (with a separator at the end) hold the code that is passed over, up to the code "
     "objects `runners`; `libraries` hold other code that is not the user's. False: this "
     "interpreter's frames are not known."},
    {"task_is_lost", taut_task_is_lost, METH_O,
     "task_is_lost(task, /) -> bool\n\nWhether nobody but the task itself refers, in whatever "
     "roundabout way, to the future that it waits for; for waiting Tasks of taut's own."},
    {"task_is_unkept", taut_task_is_unkept, METH_O,
     "task_is_unkept(ref, /) -> bool\n\nWhether the garbage collector may take the waiting Task of "
     "this weak reference: only weak references lead to what it waits for. The caller must not "
     "refer to the Task."},
    {"tasks_waiting", taut_tasks_waiting, METH_VARARGS,
     "tasks_waiting(loop, seconds, /) -> list\n\nThe Tasks of taut's own and of this loop that "
     "have waited so long."},
    {"task_field_is", taut_task_field_is, METH_VARARGS,
     "task_field_is(object, name, value, /) -> bool\n\nWhether a field of an asyncio future or "
     "task "
     "is where taut expects it. TypeError, ValueError for other objects and names."},
    {"tasks_known", taut_tasks_known, METH_NOARGS,
     "tasks_known() -> bool\n\nWhether asyncio's futures and tasks have the sizes that are known."},
    {"tasks_enable", taut_tasks_enable, METH_O,
     "tasks_enable(by_default, /) -> None\n\nLets loops make futures and tasks of taut's own; new "
     "ones do so by themselves if `by_default`."},
    {"set_task_callbacks", (PyCFunction)(void (*)(void))set_task_callbacks, METH_FASTCALL,
     set_task_callbacks_doc},
    {"spawn", taut_process_m_spawn, METH_O, spawn_doc},
    {NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The C core of taut: loop, handles, transports, servers, watchdog.");

struct PyModuleDef taut_module_def = {
    PyModuleDef_HEAD_INIT,         .m_name = "_core",           .m_doc = module_doc,
    .m_size = sizeof(taut_state),  .m_methods = module_methods, .m_slots = module_slots,
    .m_traverse = module_traverse, .m_clear = module_clear,     .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&taut_module_def);
}
