#include "binding/request.h"

#include "io/routes.h"

#define TRIES_MAX                                                                                  \
    8 /* a route that is not known after so many steps is asked for at the end only                \
       */
#define STALL_DEFAULT_NS (50 * TAUT_NS_PER_MS)

#define LOAD(v) atomic_load_explicit(&(v), memory_order_relaxed)

/* ---- counting by route --------------------------------------------------------------------------
 */

static uint64_t threshold_ns(const taut_pyloop *lp) {
    return lp->stall_threshold_ns > 0 ? lp->stall_threshold_ns : STALL_DEFAULT_NS;
}

static void count_down(_Atomic uint64_t *count) {
    uint64_t n = LOAD(*count);
    atomic_store_explicit(count, n > 0 ? n - 1 : 0, memory_order_relaxed);
}

/* What has come together since the last time. */
static void flush(taut_request *r) {
    if (r->route < 0 || r->lag_ns + r->stalls == 0)
        return;
    taut_route *route = taut_routes_at((unsigned)r->route);
    taut_vitals_count(&route->lag_ns, r->lag_ns);
    if (r->lag_longest_ns > LOAD(route->lag_longest_ns))
        atomic_store_explicit(&route->lag_longest_ns, r->lag_longest_ns, memory_order_relaxed);
    if (r->delayed_ns > 0) {
        taut_vitals_count(&route->delayed, !r->was_delayed);
        taut_vitals_count(&route->delayed_ns, r->delayed_ns);
        r->was_delayed = 1;
    }
    taut_vitals_count(&route->stalls, r->stalls);
    taut_vitals_count(&route->stalls_ns, r->stalls_ns);
    r->lag_ns = r->lag_longest_ns = r->delayed_ns = r->stalls = r->stalls_ns = 0;
}

static void set_route(taut_request *r, unsigned route) {
    r->route = (int)route;
    taut_vitals_count(&taut_routes_at(route)->in_flight, 1);
    if (r->lp->requests.staller == r->number)
        r->lp->requests.staller_route = r->route;
}

/* ---- its route --------------------------------------------------------------------------------
 */

/* 0, or -1 with an exception: KeyboardInterrupt or SystemExit, which came while it was asked for.
 */
static int find_route(taut_request *r, int last) {
    if (r->route >= 0 || r->subject == NULL || (r->tries >= TRIES_MAX && !last))
        return 0;
    r->tries++;
    Py_ssize_t method_size, path_size;
    const char *method, *path;
    PyObject *args[] = {NULL, r->subject, last ? Py_True : Py_False};
    PyObject *name =
        PyObject_Vectorcall(r->route_of, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (name != NULL && r->route < 0 && PyUnicode_Check(name) &&
        (method = PyUnicode_AsUTF8AndSize(r->method, &method_size)) != NULL &&
        (path = PyUnicode_AsUTF8AndSize(name, &path_size)) != NULL)
        set_route(r, taut_routes_find(method, (size_t)method_size, path, (size_t)path_size));
    Py_XDECREF(name);
    if (!PyErr_Occurred())
        return 0;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return -1;
    PyErr_Clear();
    return 0;
}

/* ---- its steps --------------------------------------------------------------------------------
 */

void taut_request_leave_slow(taut_task *t) {
    Py_CLEAR(t->request);
}

void taut_request_ready_slow(taut_task *t) {
    taut_request *r = t->request;
    if (r->ready_ns != 0 || t->lp == NULL)
        return;
    const taut_loop *l = &t->lp->core;
    r->ready_ns = taut_loop_time_ns(l) - l->late_ns;
}

/* One of its tasks was ready from `since_ns` on and runs now. */
static void note_wait(taut_request *r, uint64_t since_ns, uint64_t now_ns) {
    taut_pyloop *lp = r->lp;
    uint64_t wait_ns = now_ns > since_ns ? now_ns - since_ns : 0;
    r->lag_ns += wait_ns;
    if (wait_ns > r->lag_longest_ns)
        r->lag_longest_ns = wait_ns;
    if (wait_ns < threshold_ns(lp))
        return;
    r->delayed_ns += wait_ns;
    if (lp->requests.staller != 0 && lp->requests.staller != r->number &&
        lp->requests.staller_route >= 0 && since_ns < lp->requests.stalled_until_ns)
        taut_vitals_count(&taut_routes_at((unsigned)lp->requests.staller_route)->victims, 1);
}

static void note_step(taut_request *r, uint64_t now_ns) {
    uint64_t lasted_ns = now_ns > r->step_ns ? now_ns - r->step_ns : 0;
    r->step_ns = 0;
    r->stepper = NULL;
    if (lasted_ns < threshold_ns(r->lp))
        return;
    r->stalls++;
    r->stalls_ns += lasted_ns;
    r->lp->requests.staller = r->number;
    r->lp->requests.staller_route = r->route;
    r->lp->requests.stalled_until_ns = now_ns;
}

void taut_request_step_begin_slow(taut_task *t) {
    taut_request *r = t->request;
    if (r->over) {
        taut_request_leave(t);
        return;
    }
    uint64_t now_ns = taut_loop_time_ns(&t->lp->core);
    if (r->ready_ns != 0)
        note_wait(r, r->ready_ns, now_ns);
    r->ready_ns = 0;
    if (r->step_ns == 0) { /* else it is in the middle of another task's */
        r->step_ns = now_ns;
        r->stepper = t;
    }
}

void taut_request_step_end_slow(taut_task *t, int rc) {
    taut_request *r = (taut_request *)Py_NewRef((PyObject *)t->request);
    if (r->stepper == t && t->lp != NULL)
        note_step(r, taut_loop_time_ns(&t->lp->core));
    if (rc >= 0 && find_route(r, 0) < 0)
        (void)taut_pyloop_take_exit(r->lp);
    flush(r);
    if (t->aio.fut.state != TAUT_FUTURE_PENDING)
        taut_request_leave(t);
    Py_DECREF((PyObject *)r);
}

/* ---- begun and over ---------------------------------------------------------------------------
 */

/* Since when the request that begins now has waited for that, at most. */
static uint64_t arrived_ns(const taut_pyloop *lp, const taut_task *t, int arrived) {
    uint64_t turn_ns = taut_vitals_mark(&lp->core.vitals);
    if (arrived || (t->birth == TAUT_TASK_MADE_BY_EVENT && t->born_ns >= turn_ns))
        return turn_ns - lp->core.unseen_ns;
    return t->birth == TAUT_TASK_STEPPED ? 0 : t->born_ns;
}

static void begin_in(taut_request *r, taut_task *t, int arrived) {
    taut_pyloop *lp = r->lp;
    uint64_t since_ns = arrived_ns(lp, t, arrived);
    r->outer = t->request;
    if (r->outer != NULL && r->outer->stepper == t) {
        r->outer->step_ns = 0;
        r->outer->stepper = NULL;
    }
    t->request = (taut_request *)Py_NewRef((PyObject *)r);
    r->step_ns = r->began_ns;
    r->stepper = t;
    if (since_ns != 0)
        note_wait(r, since_ns, r->began_ns);
}

PyDoc_STRVAR(
    begin_doc,
    "request_begin(subject, method, path, route_of, arrived, /) -> Request | None\n\n"
    "The running task works for a request from now on, until request_end().\n"
    "route_of(subject, last) names its route, or returns None while that is not known;\n"
    "`arrived`: it has come by an event of this turn of the loop. None: it is not counted, "
    "since no taut loop runs here, or the task works for this very subject already.");
static PyObject *request_begin(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    taut_state *st = taut_state_of(module);
    taut_pyloop *lp = taut_pyloop_running();
    if (nargs != 5) {
        PyErr_Format(PyExc_TypeError, "request_begin() takes 5 arguments, not %zd", nargs);
        return NULL;
    }
    if (lp == NULL || !PyUnicode_Check(args[1]) || !PyUnicode_Check(args[2]))
        Py_RETURN_NONE;
    taut_task *t = (taut_task *)lp->current_task;
    if (t != NULL && t->request != NULL && t->request->subject == args[0])
        Py_RETURN_NONE;
    taut_request *r = (taut_request *)st->request_type->tp_alloc(st->request_type, 0);
    if (r == NULL) { /* it goes on uncounted */
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    r->number = ++lp->requests.begun;
    r->subject = Py_NewRef(args[0]);
    r->method = Py_NewRef(args[1]);
    r->path = Py_NewRef(args[2]);
    r->route_of = Py_NewRef(args[3]);
    r->lp = (taut_pyloop *)Py_NewRef((PyObject *)lp);
    r->route = -1;
    r->began_ns = taut_loop_time_ns(&lp->core);
    if (t != NULL)
        begin_in(r, t, args[4] == Py_True);
    return (PyObject *)r;
}

/* Counts it, once. */
static void finish(taut_request *r) {
    if (r->over)
        return;
    uint64_t now_ns = taut_loop_time_ns(&r->lp->core);
    if (r->step_ns != 0)
        note_step(r, now_ns);
    r->over = 1;
    if (r->route < 0)
        set_route(r, TAUT_ROUTE_OTHER);
    flush(r);
    taut_route *route = taut_routes_at((unsigned)r->route);
    taut_vitals_count(&route->requests, 1);
    taut_vitals_count(&route->requests_ns, now_ns > r->began_ns ? now_ns - r->began_ns : 0);
    count_down(&route->in_flight);
}

PyDoc_STRVAR(end_doc, "request_end(request, /) -> None\n\nIt is over. None is allowed.");
static PyObject *request_end(PyObject *module, PyObject *request) {
    taut_state *st = taut_state_of(module);
    taut_request *r = (taut_request *)request;
    if (request == Py_None)
        Py_RETURN_NONE;
    if (!Py_IS_TYPE(request, st->request_type)) {
        PyErr_Format(PyExc_TypeError, "request must be a Request, not %R", request);
        return NULL;
    }
    int rc = r->over ? 0 : find_route(r, 1);
    finish(r);
    taut_task *t = (taut_task *)r->lp->current_task;
    taut_request *outer = r->outer;
    r->outer = NULL;
    if (t != NULL && t->request == r)
        Py_XSETREF(t->request, (taut_request *)Py_XNewRef((PyObject *)outer));
    Py_XDECREF((PyObject *)outer);
    Py_CLEAR(r->subject);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- shown ------------------------------------------------------------------------------------
 */

/* "GET /items/{id}", or by its path while the route is not known; empty: none. */
static PyObject *text_of(const taut_request *r) {
    if (r == NULL || r->over)
        Py_RETURN_NONE;
    if (r->route < 0)
        return PyUnicode_FromFormat("%U %U", r->method, r->path);
    const taut_route *route = taut_routes_at((unsigned)r->route);
    return PyUnicode_FromFormat("%s %s", route->method, route->path);
}

PyDoc_STRVAR(task_doc, "task_request(task, /) -> str | None\n\nThe request that a task of taut's "
                       "own works for: its method and route, or path.");
static PyObject *task_request(PyObject *module, PyObject *task) {
    taut_state *st = taut_state_of(module);
    if (st->own.task_type == NULL || !PyObject_TypeCheck(task, st->own.task_type))
        Py_RETURN_NONE;
    return text_of(((taut_task *)task)->request);
}

static double in_seconds(uint64_t ns) {
    return (double)ns / 1e9;
}

static PyObject *route_dict(const taut_route *r) {
#define COUNT(field) (unsigned long long)LOAD(r->field)
#define SECONDS(field) in_seconds(LOAD(r->field))
    return Py_BuildValue("{sssssKsdsKsdsdsKsdsKsdsK}", "method", r->method, "route", r->path,
                         "requests", COUNT(requests), "request_seconds", SECONDS(requests_ns),
                         "in_flight", COUNT(in_flight), "lag_seconds", SECONDS(lag_ns),
                         "lag_longest", SECONDS(lag_longest_ns), "delayed", COUNT(delayed),
                         "delayed_seconds", SECONDS(delayed_ns), "stalls", COUNT(stalls),
                         "stall_seconds", SECONDS(stalls_ns), "victims", COUNT(victims));
}

PyDoc_STRVAR(routes_doc, "routes() -> list[dict]\n\nThe requests by route; times in seconds.");
static PyObject *routes(PyObject *module, PyObject *unused) {
    PyObject *list = PyList_New(0);
    for (unsigned i = 0; list != NULL && i < taut_routes_count(); i++) {
        const taut_route *r = taut_routes_at(i);
        if (i == TAUT_ROUTE_OTHER && LOAD(r->requests) + LOAD(r->in_flight) == 0)
            continue;
        PyObject *item = route_dict(r);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* ---- the type -----------------------------------------------------------------------------------
 */

static int request_traverse(PyObject *self, visitproc visit, void *arg) {
    taut_request *r = (taut_request *)self;
    Py_VISIT(r->subject);
    Py_VISIT(r->route_of);
    Py_VISIT((PyObject *)r->lp);
    Py_VISIT((PyObject *)r->outer);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int request_clear(PyObject *self) {
    taut_request *r = (taut_request *)self;
    if (r->lp != NULL)
        finish(r);
    Py_CLEAR(r->subject);
    Py_CLEAR(r->route_of);
    Py_CLEAR(r->outer);
    return 0;
}

static void request_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    taut_request *r = (taut_request *)self;
    PyObject_GC_UnTrack(self);
    (void)request_clear(self);
    Py_CLEAR(r->lp);
    Py_CLEAR(r->method);
    Py_CLEAR(r->path);
    type->tp_free(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *request_repr(PyObject *self) {
    PyObject *text = text_of((taut_request *)self);
    PyObject *repr = text == NULL ? NULL : PyUnicode_FromFormat("<Request %S>", text);
    Py_XDECREF(text);
    return repr;
}

PyDoc_STRVAR(request_doc, "A request between request_begin() and request_end().");
static PyType_Slot request_slots[] = {
    {Py_tp_doc, (void *)request_doc}, {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},     {Py_tp_dealloc, request_dealloc},
    {Py_tp_repr, request_repr},       {0, NULL},
};
static PyType_Spec request_spec = {
    "taut._core.Request", sizeof(taut_request), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, request_slots};

static PyMethodDef methods[] = {
    {"request_begin", (PyCFunction)(void (*)(void))request_begin, METH_FASTCALL, begin_doc},
    {"request_end", request_end, METH_O, end_doc},
    {"task_request", task_request, METH_O, task_doc},
    {"routes", routes, METH_NOARGS, routes_doc},
    {NULL},
};

int taut_request_type_add(PyObject *module, taut_state *st) {
    st->request_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &request_spec, NULL);
    if (st->request_type == NULL || PyModule_AddType(module, st->request_type) < 0)
        return -1;
    return PyModule_AddFunctions(module, methods);
}
