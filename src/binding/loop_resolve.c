/* getaddrinfo and getnameinfo: at once for numeric addresses, else through libc on native threads,
 * so that no lookup ever waits for the default executor. Where a program has replaced the socket
 * module's function, the replacement is called, in the executor, as asyncio would. */
#include "binding/addr.h"
#include "binding/compat.h"
#include "binding/err.h"
#include "binding/op.h"
#include "io/resolver.h"
#include <errno.h>
#include <string.h>

#define THREADS_MAX 16

/* ---- the lookup and its operation ------------------------------------------------------------ */

static void on_finished(taut_lookup *lk) {
    taut_op *op = lk->owner;
    lk->resolver = NULL; /* back: the operation frees it */
    taut_fdwaiter_done(op->lp, &op->waiter);
}

static void on_abandoned(taut_lookup *lk) {
    ((taut_op *)lk->owner)->job = NULL;
}

static void cleanup(taut_op *op) {
    taut_lookup *lk = op->job;
    op->job = NULL;
    if (lk == NULL)
        return;
    if (lk->resolver != NULL)
        taut_lookup_cancel(lk);
    else
        taut_lookup_free(lk);
}

void taut_pyloop_resolver_drain(taut_pyloop *lp) {
    if (lp->resolver != NULL)
        taut_resolver_drain(lp->resolver);
}

void taut_pyloop_resolver_close(taut_pyloop *lp) {
    taut_resolver *r = lp->resolver;
    lp->resolver = NULL;
    taut_resolver_close(r);
}

/* The 0 of a step: the lookup goes to a thread. */
static int submit(taut_op *op, taut_lookup *lk) {
    taut_pyloop *lp = op->lp;
    if (taut_pyloop_check_closed(lp) < 0)
        return -1;
    int rc = lp->resolver == NULL ? taut_resolver_new(&lp->resolver, &lp->core, THREADS_MAX) : 0;
    if (rc == 0 && taut_fdtable_wait_other(lp, &op->waiter) < 0)
        return -1;
    lk->owner = op;
    lk->finished = on_finished;
    lk->abandoned = on_abandoned;
    if (rc == 0 && (rc = taut_resolver_submit(lp->resolver, lk)) < 0)
        lk->resolver = NULL;
    if (rc < 0)
        taut_err_raise(rc);
    return rc < 0 ? -1 : 0;
}

static int raise_gai(taut_op *op, const taut_lookup *lk) {
    if (lk->rc == EAI_SYSTEM) {
        taut_err_raise(lk->sys_err != 0 ? -lk->sys_err : -EIO);
        return -1;
    }
    if (lk->rc == EAI_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *args = Py_BuildValue("(is)", lk->rc, gai_strerror(lk->rc));
    if (args != NULL)
        PyErr_SetObject(op->lp->st->gaierror, args);
    Py_XDECREF(args);
    return -1;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int no_nul(const char *s, Py_ssize_t size, const char *what) {
    if (strlen(s) == (size_t)size)
        return 1;
    PyErr_Format(PyExc_ValueError, "embedded null character in %s", what);
    return 0;
}

/* *bytes (owned) and *text, both NULL for None. 0, or -1 with an exception. */
static int host_from(PyObject *host, PyObject **bytes, const char **text) {
    *bytes = NULL;
    *text = NULL;
    if (host == NULL || host == Py_None)
        return 0;
    if (PyBytes_Check(host)) {
        *bytes = Py_NewRef(host);
    } else if (PyUnicode_Check(host)) {
        *bytes = PyUnicode_AsEncodedString(host, "idna", NULL);
    } else {
        PyErr_SetString(PyExc_TypeError, "getaddrinfo() argument 1 must be string or None");
    }
    if (*bytes == NULL)
        return -1;
    *text = PyBytes_AS_STRING(*bytes);
    return no_nul(*text, PyBytes_GET_SIZE(*bytes), "host") ? 0 : -1;
}

static int port_from(PyObject *port, PyObject **owner, const char **text) {
    *owner = NULL;
    *text = NULL;
    if (port == NULL || port == Py_None)
        return 0;
    Py_ssize_t size = 0;
    if (PyLong_Check(port)) {
        long value = PyLong_AsLong(port);
        if (value == -1 && PyErr_Occurred())
            return -1;
        *owner = PyUnicode_FromFormat("%ld", value);
        *text = *owner ? PyUnicode_AsUTF8AndSize(*owner, &size) : NULL;
    } else if (PyUnicode_Check(port)) {
        *owner = Py_NewRef(port);
        *text = PyUnicode_AsUTF8AndSize(port, &size);
    } else if (PyBytes_Check(port)) {
        *owner = Py_NewRef(port);
        *text = PyBytes_AS_STRING(port);
        size = PyBytes_GET_SIZE(port);
    } else {
        PyErr_SetString(PyExc_OSError, "Int or String expected");
    }
    return *text != NULL && no_nul(*text, size, "port") ? 0 : -1;
}

static int int_from(PyObject *obj, int *value) {
    *value = 0;
    if (obj == NULL)
        return 0;
    long n = PyLong_AsLong(obj);
    if (n == -1 && PyErr_Occurred())
        return -1;
    *value = (int)n;
    return 0;
}

/* A lookup from the operation's arguments: host, port, family, type, proto, flags. */
static taut_lookup *lookup_from(taut_op *op) {
    PyObject *host_owner = NULL, *port_owner = NULL;
    const char *host, *port;
    struct addrinfo hints = {0};
    taut_lookup *lk = NULL;
    PyObject *shown_host = op->args[0] ? op->args[0] : Py_None;
    PyObject *shown_port = op->args[1] ? op->args[1] : Py_None;
    if (host_from(op->args[0], &host_owner, &host) < 0 ||
        port_from(op->args[1], &port_owner, &port) < 0 ||
        int_from(op->args[2], &hints.ai_family) < 0 ||
        int_from(op->args[3], &hints.ai_socktype) < 0 ||
        int_from(op->args[4], &hints.ai_protocol) < 0 ||
        int_from(op->args[5], &hints.ai_flags) < 0 ||
        PySys_Audit("socket.getaddrinfo", "OOiii", shown_host, shown_port, hints.ai_family,
                    hints.ai_socktype, hints.ai_protocol) < 0)
        goto done;
    lk = taut_lookup_new(host, port, &hints);
    if (lk == NULL)
        PyErr_NoMemory();
done:
    Py_XDECREF(host_owner);
    Py_XDECREF(port_owner);
    return lk;
}

/* ---- getaddrinfo ----------------------------------------------------------------------------- */

/* The enum's member, or the plain number where it has none. */
static PyObject *member_of(PyObject *type, int value) {
    PyObject *member = PyObject_CallFunction(type, "i", value);
    if (member == NULL && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        member = PyLong_FromLong(value);
    }
    return member;
}

static PyObject *result_item(taut_state *st, const struct addrinfo *ai) {
    PyObject *family = member_of(st->address_family, ai->ai_family);
    PyObject *type = family ? member_of(st->socket_kind, ai->ai_socktype) : NULL;
    PyObject *address = type ? taut_addr_object(ai->ai_addr, ai->ai_addrlen) : NULL;
    PyObject *item = address ? Py_BuildValue("(OOisO)", family, type, ai->ai_protocol,
                                             ai->ai_canonname ? ai->ai_canonname : "", address)
                             : NULL;
    Py_XDECREF(family);
    Py_XDECREF(type);
    Py_XDECREF(address);
    return item;
}

static int result_list(taut_op *op, const taut_lookup *lk, PyObject **result) {
    if (lk->rc != 0)
        return raise_gai(op, lk);
    PyObject *list = PyList_New(0);
    for (const struct addrinfo *ai = lk->found; list != NULL && ai != NULL; ai = ai->ai_next) {
        PyObject *item = result_item(op->lp->st, ai);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    *result = list;
    return list == NULL ? -1 : 1;
}

/* Tests and tracers replace socket.getaddrinfo, and mean every lookup. 1: the replacement has been
 * called, op->future is its outcome. */
static int call_replacement(taut_op *op, const char *name, PyObject *original, int count) {
    PyObject *zero = PyLong_FromLong(0);
    PyObject *now = zero ? PyObject_GetAttrString(op->lp->st->socket_module, name) : NULL;
    int rc = now == NULL ? -1 : now != original;
    if (rc == 1) {
        PyObject *args[10] = {NULL, (PyObject *)op->lp, Py_None, now};
        for (int i = 0; i < count; i++)
            args[4 + i] = op->args[i] != NULL ? op->args[i] : zero;
        PyObject *method = PyUnicode_InternFromString("run_in_executor");
        op->future =
            method ? PyObject_VectorcallMethod(method, args + 1, (size_t)count + 3, NULL) : NULL;
        Py_XDECREF(method);
        if (op->future == NULL)
            rc = -1;
    }
    Py_XDECREF(now);
    Py_XDECREF(zero);
    return rc;
}

static int replacement_result(taut_op *op, PyObject **result) {
    *result = PyObject_CallMethod(op->future, "result", NULL);
    return *result == NULL ? -1 : 1;
}

/* Whether it was answered without leaving the machine, or even this thread. */
static int try_numeric(taut_lookup *lk) {
    int flags = lk->hints.ai_flags;
    lk->hints.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
    taut_lookup_run(lk);
    lk->hints.ai_flags = flags;
    return lk->rc == 0 || (flags & AI_NUMERICHOST && flags & AI_NUMERICSERV);
}

static int step_getaddrinfo(taut_op *op, PyObject **result) {
    taut_state *st = op->lp->st;
    if (op->job == NULL) {
        if (op->future != NULL)
            return replacement_result(op, result);
        int replaced = call_replacement(op, "getaddrinfo", st->getaddrinfo, 6);
        if (replaced != 0)
            return replaced < 0 ? -1 : 0;
        taut_lookup *lk = op->job = lookup_from(op);
        if (lk == NULL)
            return -1;
        if (!try_numeric(lk))
            return submit(op, lk);
    }
    return result_list(op, op->job, result);
}

/* ---- getnameinfo ----------------------------------------------------------------------------- */

static taut_lookup *reverse_from(taut_op *op) {
    const char *host;
    int port, flags;
    unsigned int flow = 0, scope = 0;
    char service[16], scoped[NI_MAXHOST];
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST};
    if (int_from(op->args[1], &flags) < 0)
        return NULL;
    if (!PyTuple_Check(op->args[0])) {
        PyErr_SetString(PyExc_TypeError, "getnameinfo() argument 1 must be a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(op->args[0], "si|II;getnameinfo(): illegal sockaddr argument", &host,
                          &port, &flow, &scope))
        return NULL;
    if (flow > 0xfffff) {
        PyErr_SetString(PyExc_OverflowError, "getnameinfo(): flowinfo must be 0-1048575.");
        return NULL;
    }
    if (PySys_Audit("socket.getnameinfo", "(O)", op->args[0]) < 0)
        return NULL;
    snprintf(service, sizeof service, "%d", port);
    if (scope != 0 && strchr(host, ':') != NULL && strchr(host, '%') == NULL) {
        snprintf(scoped, sizeof scoped, "%s%%%u", host, scope);
        host = scoped;
    }
    taut_lookup *lk = taut_lookup_new(host, service, &hints);
    if (lk == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    lk->reverse = 1;
    lk->name_flags = flags;
    return lk;
}

static int names(taut_op *op, const taut_lookup *lk, PyObject **result) {
    if (lk->ambiguous) {
        PyErr_SetString(PyExc_OSError, "sockaddr resolved to multiple addresses");
        return -1;
    }
    if (lk->rc != 0)
        return raise_gai(op, lk);
    if (lk->found->ai_family == AF_INET && PyTuple_GET_SIZE(op->args[0]) != 2) {
        PyErr_SetString(PyExc_OSError, "IPv4 sockaddr must be 2 tuple");
        return -1;
    }
    PyObject *host = PyUnicode_DecodeFSDefault(lk->host_name);
    *result = host ? Py_BuildValue("(Ns)", host, lk->service_name) : NULL;
    return *result == NULL ? -1 : 1;
}

static int step_getnameinfo(taut_op *op, PyObject **result) {
    taut_state *st = op->lp->st;
    if (op->job == NULL) {
        if (op->future != NULL)
            return replacement_result(op, result);
        int replaced = call_replacement(op, "getnameinfo", st->getnameinfo, 2);
        if (replaced != 0)
            return replaced < 0 ? -1 : 0;
        taut_lookup *lk = op->job = reverse_from(op);
        if (lk == NULL)
            return -1;
        if (!(lk->name_flags & NI_NUMERICHOST && lk->name_flags & NI_NUMERICSERV))
            return submit(op, lk);
        taut_lookup_run(lk);
    }
    return names(op, op->job, result);
}

/* ---- methods --------------------------------------------------------------------------------- */

static PyObject *loop_getaddrinfo(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    static const taut_op_kind kind = {"getaddrinfo", step_getaddrinfo, cleanup};
    static const char *const arg_names[] = {"host",  "port",  "family", "type",
                                            "proto", "flags", NULL};
    return taut_op_new(self, &kind, arg_names, 2, args, nargs, kwnames);
}

/* In debug mode a coroutine that logs the question and the answer, and asks as above. */
static PyObject *loop_getaddrinfo_public(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                         PyObject *kwnames) {
    if (TAUT_LIKELY(!((taut_pyloop *)self)->debug))
        return loop_getaddrinfo(self, args, nargs, kwnames);
    PyObject *logged = PyObject_GetAttrString(self, "_getaddrinfo_logged");
    PyObject *coro =
        logged == NULL ? NULL : PyObject_Vectorcall(logged, args, (size_t)nargs, kwnames);
    Py_XDECREF(logged);
    return coro;
}

static PyObject *loop_getnameinfo(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    static const taut_op_kind kind = {"getnameinfo", step_getnameinfo, cleanup};
    static const char *const arg_names[] = {"sockaddr", "flags", NULL};
    return taut_op_new(self, &kind, arg_names, 1, args, nargs, kwnames);
}

#define FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS
PyMethodDef taut_loop_resolve_methods[] = {
    {"_getaddrinfo", FAST(loop_getaddrinfo), "getaddrinfo() without debug mode's log."},
    {"getaddrinfo", FAST(loop_getaddrinfo_public),
     "getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0)\n\n"
     "Awaitable: the list that socket.getaddrinfo() returns. Raises socket.gaierror."},
    {"getnameinfo", FAST(loop_getnameinfo),
     "getnameinfo(sockaddr, flags=0)\n\n"
     "Awaitable: (host, service), as socket.getnameinfo(). Raises socket.gaierror."},
    {NULL},
};
