/* The module's functions about findings (io/findings.h): what Python's rules add, and what is read.
 */
#include "binding/state.h"
#include "io/findings.h"
#include "io/ignore.h"
#include "io/journal.h"
#include "io/reporter.h"

#include <stdlib.h>

#include "base/clock.h"

static const char *const state_names[] = {"seen", "ongoing", "over"};

static int state_from(const char *name, enum taut_finding_state *state) {
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, state_names[i]) == 0) {
            *state = (enum taut_finding_state)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "state must be 'seen', 'ongoing' or 'over', not '%.40s'", name);
    return -1;
}

PyDoc_STRVAR(add_doc,
             "finding_add(code, cause, remedy, *, file='', line=0, function='', evidence='', "
             "state='seen') -> int\n\nAdds a finding, or counts it once more when the code, the "
             "file, the line and the function are those of an earlier one. Returns its id, 0 when "
             "it is ignored. Any thread.");
static PyObject *finding_add(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"code",     "cause",    "remedy", "file", "line",
                            "function", "evidence", "state",  NULL};
    taut_finding_new f = {.file = "", .function = "", .evidence = ""};
    const char *state = "seen";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sss|$sisss:finding_add", names, &f.code,
                                     &f.cause, &f.remedy, &f.file, &f.line, &f.function,
                                     &f.evidence, &state) ||
        state_from(state, &f.state) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(taut_findings_add(&f));
}

PyDoc_STRVAR(update_doc, "finding_update(id, evidence, state) -> bool\n\nReplaces the evidence "
                         "(None: it stays) and the state of a finding without counting it again. "
                         "False: it has made room for others.");
static PyObject *finding_update(PyObject *module, PyObject *args) {
    unsigned long long id;
    const char *evidence, *name;
    enum taut_finding_state state;
    if (!PyArg_ParseTuple(args, "Kzs:finding_update", &id, &evidence, &name) ||
        state_from(name, &state) < 0)
        return NULL;
    return PyBool_FromLong(taut_findings_update(id, evidence, state) == 0);
}

static PyObject *finding_tuple(const taut_finding *f) {
    return Py_BuildValue("(KKKddssisssss)", (unsigned long long)f->id,
                         (unsigned long long)f->change, (unsigned long long)f->count,
                         (double)f->first_ns / (double)TAUT_NS_PER_S,
                         (double)f->last_ns / (double)TAUT_NS_PER_S, state_names[f->state], f->code,
                         f->line, f->file, f->function, f->cause, f->remedy, f->evidence);
}

PyDoc_STRVAR(findings_doc,
             "findings(change=0, /) -> list\n\nWhat was found or has changed after `change`, in "
             "that order, as (id, change, count, first, last, state, code, line, file, function, "
             "cause, remedy, evidence). Times are seconds since the epoch.");
static PyObject *findings(PyObject *module, PyObject *args) {
    unsigned long long change = 0;
    taut_finding f;
    if (!PyArg_ParseTuple(args, "|K:findings", &change))
        return NULL;
    PyObject *list = PyList_New(0);
    while (list != NULL && taut_findings_next(change, &f)) {
        PyObject *item = finding_tuple(&f);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
        change = f.change;
    }
    return list;
}

PyDoc_STRVAR(wait_doc, "findings_wait(change, /) -> int\n\nWaits without the GIL until something "
                       "is found or changes after `change`, or for findings_wake(). Returns the "
                       "newest change.");
static PyObject *findings_wait(PyObject *module, PyObject *arg) {
    unsigned long long change = PyLong_AsUnsignedLongLong(arg);
    if (change == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS change = taut_findings_wait(change, TAUT_NEVER_NS);
    Py_END_ALLOW_THREADS return PyLong_FromUnsignedLongLong(change);
}

static PyObject *findings_wake(PyObject *module, PyObject *unused) {
    taut_findings_wake();
    Py_RETURN_NONE;
}

static PyObject *findings_clear(PyObject *module, PyObject *unused) {
    taut_findings_clear();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(journal_doc, "journal_path() -> str | None\n\nThe file that findings go to, by the "
                          "environment as it is now. None: there is no journal.");
static PyObject *journal_path(PyObject *module, PyObject *unused) {
    char path[TAUT_JOURNAL_PATH_MAX];
    if (!taut_journal_find(path))
        Py_RETURN_NONE;
    return PyUnicode_DecodeFSDefault(path);
}

PyDoc_STRVAR(flush_doc, "findings_flush(timeout, /) -> bool\n\nWaits without the GIL, `timeout` "
                        "seconds at most, until all findings so far stand in the journal and on "
                        "stderr. False: they do not.");
static PyObject *findings_flush(PyObject *module, PyObject *arg) {
    double seconds = PyFloat_AsDouble(arg);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    if (!(seconds >= 0.0 && seconds <= 3600.0)) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds from 0 to 3600");
        return NULL;
    }
    int rc;
    Py_BEGIN_ALLOW_THREADS rc = taut_reporter_flush((uint64_t)(seconds * 1e9));
    Py_END_ALLOW_THREADS return PyBool_FromLong(rc == 0);
}

static PyObject *reporter_thread_id(PyObject *module, PyObject *unused) {
    return PyLong_FromLong(taut_reporter_thread_id());
}

PyDoc_STRVAR(ignore_doc, "finding_ignore(rule, /) -> None\n\nFindings that CODE, CODE@FILE or "
                         "CODE@FILE:LINE describes are not added any more.");
static PyObject *finding_ignore(PyObject *module, PyObject *arg) {
    Py_ssize_t size;
    const char *rule = PyUnicode_AsUTF8AndSize(arg, &size);
    if (rule == NULL)
        return NULL;
    int rc = taut_ignore_add(rule, (size_t)size);
    if (rc == -ENOSPC)
        return PyErr_Format(PyExc_ValueError, "there are %d rules already", TAUT_IGNORE_MAX);
    if (rc < 0)
        return PyErr_Format(PyExc_ValueError, "not CODE, CODE@FILE or CODE@FILE:LINE: %R", arg);
    Py_RETURN_NONE;
}

static void ignore_environment(void) {
    const char *rules = getenv("TAUT_IGNORE"), *bad = "";
    size_t size = 0;
    if (rules != NULL && taut_ignore_add_all(rules, &bad, &size) < 0)
        fprintf(stderr, "taut: TAUT_IGNORE: %.*s is not CODE, CODE@FILE or CODE@FILE:LINE\n",
                (int)(size < 80 ? size : 80), bad);
}

static PyMethodDef methods[] = {
    {"journal_path", journal_path, METH_NOARGS, journal_doc},
    {"findings_flush", findings_flush, METH_O, flush_doc},
    {"reporter_thread_id", reporter_thread_id, METH_NOARGS,
     "reporter_thread_id() -> int\n\nThe kernel's id of the thread that tells findings, 0 while "
     "there is none."},
    {"finding_add", (PyCFunction)(void (*)(void))finding_add, METH_VARARGS | METH_KEYWORDS,
     add_doc},
    {"finding_update", finding_update, METH_VARARGS, update_doc},
    {"finding_ignore", finding_ignore, METH_O, ignore_doc},
    {"findings", findings, METH_VARARGS, findings_doc},
    {"findings_wait", findings_wait, METH_O, wait_doc},
    {"findings_wake", findings_wake, METH_NOARGS,
     "findings_wake() -> None\n\nEnds every findings_wait()."},
    {"findings_clear", findings_clear, METH_NOARGS,
     "findings_clear() -> None\n\nForgets all findings."},
    {NULL},
};

/* What is pending is told before the interpreter goes: a process that ends by a signal, as after
 * Ctrl-C, does not come by exit(). 0, or -1 with an exception. */
static int flush_at_exit(PyObject *module) {
    PyObject *atexit = PyImport_ImportModule("atexit");
    PyObject *flush = PyObject_GetAttrString(module, "findings_flush");
    PyObject *done = atexit == NULL || flush == NULL
                         ? NULL
                         : PyObject_CallMethod(atexit, "register", "Od", flush, 1.0);
    Py_XDECREF(done);
    Py_XDECREF(flush);
    Py_XDECREF(atexit);
    return done == NULL ? -1 : 0;
}

int taut_findings_functions_add(PyObject *module, taut_state *st) {
    char path[TAUT_JOURNAL_PATH_MAX];
    const char *stall = getenv("TAUT_STALL");
    if (stall != NULL && (strcmp(stall, "off") == 0 || strcmp(stall, "0") == 0))
        taut_reporter_stderr_set(0);
    (void)taut_journal_find(path);
    taut_reporter_enable(path);
    ignore_environment();
    return PyModule_AddFunctions(module, methods) < 0 ? -1 : flush_at_exit(module);
}
