/* Readers and writers by file descriptor, and the loop's list of open transports and servers. */
#include "binding/fdtable.h"
#include "binding/args.h"
#include "binding/compat.h"
#include "binding/err.h"
#include "binding/handle.h"
#include "binding/pipe.h"
#include "base/mem.h"
#include <errno.h>

/* ---- members: open transports and servers --------------------------------------------------- */

void taut_member_add(taut_pyloop *lp, taut_member *m, PyObject *object,
                     void (*orphan)(PyObject *object)) {
    m->object = object;
    m->orphan = orphan;
    m->held = 0;
    taut_list_append(&lp->fds->members, &m->link);
}

void taut_member_hold(taut_member *m) {
    if (!m->held) {
        m->held = 1;
        Py_INCREF(m->object);
    }
}

void taut_member_release(taut_member *m) {
    if (m->held) {
        m->held = 0;
        Py_DECREF(m->object);
    }
}

void taut_member_remove(taut_member *m) {
    taut_list_unlink(&m->link);
    taut_member_release(m);
}

/* ---- entries --------------------------------------------------------------------------------- */

/* 0, or a negative error. */
static int clear_of_pipe(taut_fdentry *e) {
    int rc = e->pipe == NULL ? 0 : taut_pipe_step_aside(e->pipe);
    if (rc == 0)
        e->pipe = NULL;
    return rc;
}

/* The kernel learns from each call; a number that was closed and reused is noticed by it. */
static int rearm(taut_fdentry *e) {
    uint32_t want = 0;
    if (e->reader != NULL || !taut_list_empty(&e->readers))
        want |= TAUT_READ;
    if (e->writer != NULL || !taut_list_empty(&e->writers))
        want |= TAUT_WRITE;
    int rc = want == 0 ? 0 : clear_of_pipe(e);
    if (rc == 0)
        rc = taut_poller_arm(e->lp->core.poller, &e->watch, want);
    /* Nothing wanted and nothing there: the user has closed it. */
    return want == 0 && rc < 0 ? 0 : rc;
}

void taut_fdwaiter_done(taut_pyloop *lp, taut_fdwaiter *w) {
    PyObject *future = w->future;
    if (future == NULL)
        return;
    taut_list_unlink(&w->link);
    w->future = NULL;
    taut_pyloop_future_result(lp, future, Py_None);
    Py_DECREF(future);
    Py_DECREF(future);
}

static void wake_list(taut_pyloop *lp, taut_list *waiters) {
    taut_list ready;
    taut_list_take(&ready, waiters);
    while (!taut_list_empty(&ready))
        taut_fdwaiter_done(lp, TAUT_CONTAINER(ready.next, taut_fdwaiter, link));
}

static void queue_handle(taut_pyloop *lp, PyObject *handle) {
    if (taut_ready_handle(lp, handle, NULL) < 0)
        taut_pyloop_unhandled(lp, "queueing an I/O callback failed", NULL, NULL);
}

static void on_event(taut_watch *watch, uint32_t events) {
    taut_fdentry *e = TAUT_CONTAINER(watch, taut_fdentry, watch);
    uint32_t wanted = 0;
    if (e->reader != NULL || !taut_list_empty(&e->readers))
        wanted |= TAUT_READ;
    if (e->writer != NULL || !taut_list_empty(&e->writers))
        wanted |= TAUT_WRITE;
    if ((events & wanted) == 0) {
        /* A wait that is over stays armed, since mostly another follows; none did. */
        (void)rearm(e);
        return;
    }
    if (events & TAUT_READ) {
        if (e->reader != NULL)
            queue_handle(e->lp, e->reader);
        wake_list(e->lp, &e->readers);
    }
    if (events & TAUT_WRITE) {
        if (e->writer != NULL)
            queue_handle(e->lp, e->writer);
        if (!taut_list_empty(&e->writers)) {
            wake_list(e->lp, &e->writers);
            (void)rearm(e); /* mostly it stays writable, and would be reported at once again */
        }
    }
}

static taut_fdentry *entry_find(taut_pyloop *lp, int fd) {
    taut_fdtable *ft = lp->fds;
    return ft != NULL && fd >= 0 && (size_t)fd < ft->capacity ? ft->entries[fd] : NULL;
}

/* Where the file object was registered, which may be closed by now and have no number any more. */
static taut_fdentry *entry_of_file(taut_pyloop *lp, PyObject *file) {
    for (size_t i = 0; lp->fds != NULL && i < lp->fds->capacity; i++)
        if (lp->fds->entries[i] != NULL && lp->fds->entries[i]->file == file)
            return lp->fds->entries[i];
    return NULL;
}

static taut_fdentry *entry_get(taut_pyloop *lp, int fd) {
    taut_fdtable *ft = lp->fds;
    if (fd < 0) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
        return NULL;
    }
    if ((size_t)fd >= ft->capacity) {
        size_t capacity = ft->capacity ? ft->capacity : 64;
        while (capacity <= (size_t)fd)
            capacity *= 2;
        taut_fdentry **entries = taut_realloc_array(ft->entries, capacity, sizeof *entries);
        if (entries == NULL)
            return (taut_fdentry *)PyErr_NoMemory();
        for (size_t i = ft->capacity; i < capacity; i++)
            entries[i] = NULL;
        ft->entries = entries;
        ft->capacity = capacity;
    }
    if (ft->entries[fd] == NULL) {
        taut_fdentry *e = taut_calloc(1, sizeof *e);
        if (e == NULL)
            return (taut_fdentry *)PyErr_NoMemory();
        e->lp = lp;
        e->drained_turn = UINT64_MAX;
        taut_list_init(&e->readers);
        taut_list_init(&e->writers);
        taut_watch_init(&e->watch, fd, on_event);
        e->watch.foreign = 1;
        ft->entries[fd] = e;
    }
    return ft->entries[fd];
}

static void drop_handle(PyObject **slot) {
    PyObject *handle = *slot;
    *slot = NULL;
    if (handle != NULL && taut_handle_cancel(handle) < 0)
        PyErr_Clear(); /* cancelled all the same: only its debug text could not be made */
    Py_XDECREF(handle);
}

static void drop_waiters(taut_list *waiters) {
    while (!taut_list_empty(waiters))
        taut_fdwaiter_cancel(TAUT_CONTAINER(waiters->next, taut_fdwaiter, link));
}

int taut_fdtable_claim(taut_pyloop *lp, int fd, PyObject *transport,
                       int (*is_closing)(PyObject *transport)) {
    taut_fdentry *e = entry_get(lp, fd);
    int rc = e == NULL ? -1 : clear_of_pipe(e);
    if (rc < 0) {
        if (e != NULL)
            taut_err_raise(rc);
        return -1;
    }
    /* It may be the same open file, just connected by sock_connect. */
    taut_poller_remove(lp->core.poller, &e->watch, 1);
    drop_handle(&e->reader);
    drop_handle(&e->writer);
    Py_CLEAR(e->file);
    e->transport = transport;
    e->is_closing = is_closing;
    return 0;
}

void taut_fdtable_unclaim(taut_pyloop *lp, int fd, PyObject *transport) {
    taut_fdentry *e = entry_find(lp, fd);
    if (e != NULL && e->transport == transport)
        e->transport = NULL;
}

int taut_fdtable_is_watched(taut_pyloop *lp, int fd) {
    taut_fdentry *e = entry_find(lp, fd);
    if (e == NULL)
        return 0;
    if (e->reader != NULL || e->writer != NULL || !taut_list_empty(&e->readers) ||
        !taut_list_empty(&e->writers) || e->transport != NULL)
        return 1;
    taut_poller_remove(lp->core.poller, &e->watch, 1); /* a wait that is over stays armed */
    return 0;
}

int taut_fdtable_lend(taut_pyloop *lp, int fd, taut_pipe *pipe) {
    taut_fdentry *e = entry_get(lp, fd);
    if (e == NULL)
        return -1;
    e->pipe = pipe;
    return 0;
}

void taut_fdtable_unlend(taut_pyloop *lp, int fd, taut_pipe *pipe) {
    taut_fdentry *e = entry_find(lp, fd);
    if (e != NULL && e->pipe == pipe)
        e->pipe = NULL;
}

#define VAIN_READS_MIN 8
#define READS_PER_TRY 64

int taut_fdtable_try_read(taut_pyloop *lp, int fd) {
    taut_fdentry *e = entry_find(lp, fd);
    return e == NULL || e->drained_turn != lp->core.turn || e->vain < VAIN_READS_MIN ||
           ++e->skipped % READS_PER_TRY == 0;
}

void taut_fdtable_tried_read(taut_pyloop *lp, int fd, ssize_t got, size_t asked) {
    taut_fdentry *e = entry_find(lp, fd);
    if (e == NULL) /* nobody has waited for it yet */
        return;
    if (e->drained_turn == lp->core.turn)
        e->vain = got == -EAGAIN ? e->vain + 1 : 0;
    e->drained_turn = got > 0 && (size_t)got < asked ? lp->core.turn : UINT64_MAX;
}

int taut_fdtable_check_free(taut_pyloop *lp, int fd, PyObject *shown) {
    const taut_fdentry *e = entry_find(lp, fd);
    if (e == NULL || e->transport == NULL || e->is_closing(e->transport))
        return 0;
    PyObject *user = Py_NewRef(e->transport);
    PyObject *number = shown == NULL ? PyLong_FromLong(fd) : Py_NewRef(shown);
    if (number != NULL)
        PyErr_Format(PyExc_RuntimeError, "File descriptor %R is used by transport %R", number,
                     user);
    Py_XDECREF(number);
    Py_DECREF(user);
    return -1;
}

static int waiter_begin(taut_pyloop *lp, taut_fdwaiter *w, taut_list *list) {
    w->future = taut_pyloop_new_future(lp);
    if (w->future == NULL)
        return -1;
    Py_INCREF(w->future);
    taut_list_append(list, &w->link);
    return 0;
}

int taut_fdtable_wait_other(taut_pyloop *lp, taut_fdwaiter *w) {
    return waiter_begin(lp, w, &lp->fds->others);
}

int taut_fdtable_wait(taut_pyloop *lp, int fd, uint32_t direction, taut_fdwaiter *w) {
    taut_fdentry *e = entry_get(lp, fd);
    if (e == NULL)
        return -1;
    if (waiter_begin(lp, w, direction == TAUT_READ ? &e->readers : &e->writers) < 0)
        return -1;
    taut_loop_touch(&lp->core);
    int rc = rearm(e);
    if (rc == 0)
        return 0;
    taut_fdwaiter_cancel(w);
    taut_err_raise(rc);
    return -1;
}

void taut_fdwaiter_cancel(taut_fdwaiter *w) {
    PyObject *future = w->future;
    taut_list_unlink(&w->link);
    w->future = NULL;
    Py_XDECREF(future);
    Py_XDECREF(future);
}

/* ---- add_reader and friends ------------------------------------------------------------------ */

/* An fd, or an object with fileno(): ValueError for anything else, as selectors has it. */
static int fd_from(PyObject *obj) {
    return taut_args_fd(obj);
}

static PyObject *add(taut_pyloop *lp, PyObject *const *args, Py_ssize_t nargs, int writer,
                     int checked) {
    const char *name = writer ? "add_writer" : "add_reader";
    if (taut_args_at_least(name, nargs, 2, nargs == 0 ? "fd" : "callback") < 0)
        return NULL;
    int fd = fd_from(args[0]);
    if (fd < 0 || (checked && taut_fdtable_check_free(lp, fd, args[0]) < 0) ||
        taut_pyloop_check_closed(lp) < 0)
        return NULL;
    taut_fdentry *e = entry_get(lp, fd);
    PyObject *handle = e == NULL ? NULL : taut_handle_new(lp, args[1], args + 2, nargs - 2, NULL);
    if (handle == NULL)
        return NULL;
    PyObject **slot = writer ? &e->writer : &e->reader;
    PyObject *old = *slot;
    *slot = Py_NewRef(handle);
    taut_loop_touch(&lp->core);
    int rc = rearm(e);
    if (rc < 0) {
        *slot = old;
        Py_DECREF(handle);
        Py_DECREF(handle);
        return taut_err_raise(rc);
    }
    if (!PyLong_Check(args[0]))
        Py_XSETREF(e->file, Py_NewRef(args[0]));
    else if ((writer ? e->reader : e->writer) == NULL)
        Py_CLEAR(e->file);
    drop_handle(&old);
    return handle;
}

static PyObject *remove_one(taut_pyloop *lp, PyObject *obj, int writer, int checked) {
    int fd = fd_from(obj);
    taut_fdentry *e = fd < 0 ? entry_of_file(lp, obj) : entry_find(lp, fd);
    if (fd < 0) {
        if (e == NULL || !PyErr_ExceptionMatches(PyExc_ValueError))
            return NULL;
        PyErr_Clear(); /* closed before it was removed */
    } else if (checked && taut_fdtable_check_free(lp, fd, obj) < 0) {
        return NULL;
    }
    PyObject **slot = e == NULL ? NULL : writer ? &e->writer : &e->reader;
    if (slot == NULL || *slot == NULL)
        Py_RETURN_FALSE;
    PyObject *old = *slot;
    *slot = NULL;
    (void)rearm(e);
    PyObject *file = e->file;
    if (e->reader == NULL && e->writer == NULL)
        e->file = NULL;
    else
        file = NULL;
    drop_handle(&old);
    Py_XDECREF(file);
    Py_RETURN_TRUE;
}

#define ADD_METHOD(c_name, writer, checked)                                                        \
    static PyObject *c_name(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {             \
        PyObject *handle = add((taut_pyloop *)self, args, nargs, writer, checked);                 \
        if (handle == NULL || !(checked))                                                          \
            return handle;                                                                         \
        Py_DECREF(handle);                                                                         \
        Py_RETURN_NONE;                                                                            \
    }
ADD_METHOD(add_reader, 0, 1)
ADD_METHOD(add_writer, 1, 1)
ADD_METHOD(add_reader_unchecked, 0, 0)
ADD_METHOD(add_writer_unchecked, 1, 0)

static PyObject *remove_reader(PyObject *self, PyObject *fd) {
    return remove_one((taut_pyloop *)self, fd, 0, 1);
}
static PyObject *remove_writer(PyObject *self, PyObject *fd) {
    return remove_one((taut_pyloop *)self, fd, 1, 1);
}
static PyObject *remove_reader_unchecked(PyObject *self, PyObject *fd) {
    return remove_one((taut_pyloop *)self, fd, 0, 0);
}
static PyObject *remove_writer_unchecked(PyObject *self, PyObject *fd) {
    return remove_one((taut_pyloop *)self, fd, 1, 0);
}

static PyObject *ensure_fd_no_transport(PyObject *self, PyObject *obj) {
    int fd = fd_from(obj);
    if (fd < 0 || taut_fdtable_check_free((taut_pyloop *)self, fd, obj) < 0)
        return NULL;
    Py_RETURN_NONE;
}

#define FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL
PyMethodDef taut_loop_fd_methods[] = {
    {"add_reader", FAST(add_reader),
     "add_reader(fd, callback, *args) -> None\n\nCall it whenever fd is readable."},
    {"add_writer", FAST(add_writer),
     "add_writer(fd, callback, *args) -> None\n\nCall it whenever fd is writable."},
    {"remove_reader", remove_reader, METH_O, "remove_reader(fd) -> bool"},
    {"remove_writer", remove_writer, METH_O, "remove_writer(fd) -> bool"},
    {"_add_reader", FAST(add_reader_unchecked), "add_reader for an fd of a transport."},
    {"_add_writer", FAST(add_writer_unchecked), "add_writer for an fd of a transport."},
    {"_remove_reader", remove_reader_unchecked, METH_O, "remove_reader for any fd."},
    {"_remove_writer", remove_writer_unchecked, METH_O, "remove_writer for any fd."},
    {"_ensure_fd_no_transport", ensure_fd_no_transport, METH_O,
     "RuntimeError when an open transport has the fd."},
    {NULL},
};

/* ---- life of the table -------------------------------------------------------------------------
 */

int taut_fdtable_new(taut_pyloop *lp) {
    lp->fds = taut_calloc(1, sizeof *lp->fds);
    if (lp->fds == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    taut_list_init(&lp->fds->members);
    taut_list_init(&lp->fds->others);
    return 0;
}

void taut_fdtable_clear(taut_pyloop *lp) {
    taut_fdtable *ft = lp->fds;
    if (ft == NULL)
        return;
    while (!taut_list_empty(&ft->members)) {
        taut_member *m = TAUT_CONTAINER(ft->members.next, taut_member, link);
        PyObject *object = Py_NewRef(m->object);
        taut_list_unlink(&m->link);
        m->orphan(object);
        taut_member_release(m);
        Py_DECREF(object);
    }
    lp->fds = NULL; /* from here on Python code may run that looks */
    drop_waiters(&ft->others);
    for (size_t i = 0; i < ft->capacity; i++) {
        taut_fdentry *e = ft->entries[i];
        if (e == NULL)
            continue;
        if (lp->core.poller != NULL)
            taut_poller_remove(lp->core.poller, &e->watch, 1);
        drop_handle(&e->reader);
        drop_handle(&e->writer);
        drop_waiters(&e->readers);
        drop_waiters(&e->writers);
        Py_CLEAR(e->file);
        taut_free(e);
    }
    taut_free(ft->entries);
    taut_free(ft);
}

static int traverse_waiters(taut_list *waiters, visitproc visit, void *arg) {
    for (taut_list *l = waiters->next; l != waiters; l = l->next)
        Py_VISIT(TAUT_CONTAINER(l, taut_fdwaiter, link)->future);
    return 0;
}

int taut_fdtable_traverse(taut_pyloop *lp, visitproc visit, void *arg) {
    taut_fdtable *ft = lp->fds;
    if (ft == NULL)
        return 0;
    for (taut_list *l = ft->members.next; l != &ft->members; l = l->next) {
        taut_member *m = TAUT_CONTAINER(l, taut_member, link);
        if (m->held)
            Py_VISIT(m->object);
    }
    int visited = traverse_waiters(&ft->others, visit, arg);
    if (visited != 0)
        return visited;
    for (size_t i = 0; i < ft->capacity; i++) {
        taut_fdentry *e = ft->entries[i];
        if (e == NULL)
            continue;
        Py_VISIT(e->reader);
        Py_VISIT(e->writer);
        Py_VISIT(e->file);
        int rc = traverse_waiters(&e->readers, visit, arg);
        if (rc == 0)
            rc = traverse_waiters(&e->writers, visit, arg);
        if (rc != 0)
            return rc;
    }
    return 0;
}
