/* StreamReaderProtocol.data_received() and StreamReader.feed_data(), in C. */
#include "binding/stream_reader.h"
#include "binding/task.h"
#include <string.h>

/* Attributes of a protocol and of a reader, in the order of taut_attrs. Those of the second line
 * are methods: an instance that has one of its own is patched. */
enum { READER_WR, OWN_DATA_RECEIVED, PROTOCOL_NAMES };
enum { BUFFER, EOF_FED, WAITER, TRANSPORT, PAUSED, LIMIT, READER_FIELDS };
enum { OWN_FEED_DATA = READER_FIELDS, OWN_WAKE_UP, READER_NAMES };

/* ---- the classes, as asyncio makes them ------------------------------------------------------ */

/* What the functions look up by name, in this order: a CPython whose functions do something else
 * looks up something else, too. */
static const char *const names_used[TAUT_STREAM_FUNCTIONS] = {
    [TAUT_STREAM_DATA_RECEIVED] = "_stream_reader feed_data",
    [TAUT_STREAM_GET_READER] = "_stream_reader_wr",
    [TAUT_STREAM_FEED_DATA] = ("_eof _buffer extend _wakeup_waiter _transport _paused len _limit "
                               "pause_reading NotImplementedError"),
    [TAUT_STREAM_WAKE_UP] = "_waiter cancelled set_result",
};

/* Whether `function` is of asyncio.streams and looks up these names. -1 with an exception. */
static int is_known(PyObject *function, PyObject *globals, const char *used) {
    if (!PyFunction_Check(function) || PyFunction_GET_GLOBALS(function) != globals)
        return 0;
    PyObject *names = PyObject_GetAttrString(PyFunction_GET_CODE(function), "co_names");
    PyObject *blank = names == NULL ? NULL : PyUnicode_FromString(" ");
    PyObject *joined = blank == NULL ? NULL : PyUnicode_Join(blank, names);
    int is = joined == NULL ? -1 : PyUnicode_CompareWithASCIIString(joined, used) == 0;
    Py_XDECREF(joined);
    Py_XDECREF(blank);
    Py_XDECREF(names);
    return is;
}

static int take_function(taut_stream_names *k, int which, PyObject *type, PyObject *name) {
    PyObject *found = PyObject_GetAttr(type, name);
    if (found != NULL && which == TAUT_STREAM_GET_READER) {
        k->reader_property = found;
        found = PyObject_GetAttrString(found, "fget");
    }
    k->functions[which] = found;
    return found == NULL ? -1 : 0;
}

/* 1: they are known; 0: not these; -1 with an exception. */
static int take_functions(taut_state *st, PyObject *protocol, PyObject *reader, PyObject *globals) {
    taut_stream_names *k = &st->streams;
    if (take_function(k, TAUT_STREAM_DATA_RECEIVED, protocol, st->str_data_received) < 0 ||
        take_function(k, TAUT_STREAM_GET_READER, protocol, st->str__stream_reader) < 0 ||
        take_function(k, TAUT_STREAM_FEED_DATA, reader, st->str_feed_data) < 0 ||
        take_function(k, TAUT_STREAM_WAKE_UP, reader, st->str__wakeup_waiter) < 0)
        return -1;
    for (int i = 0; i < TAUT_STREAM_FUNCTIONS; i++) {
        int is = is_known(k->functions[i], globals, names_used[i]);
        if (is <= 0)
            return is;
        k->codes[i] = Py_NewRef(PyFunction_GET_CODE(k->functions[i]));
    }
    return 1;
}

int taut_stream_names_init(taut_state *st) {
    PyObject *module = PyImport_ImportModule("asyncio.streams");
    if (module == NULL)
        return -1;
    PyObject *protocol = PyObject_GetAttrString(module, "StreamReaderProtocol");
    PyObject *reader = protocol == NULL ? NULL : PyObject_GetAttrString(module, "StreamReader");
    int known = reader == NULL ? -1 : 0;
    if (known == 0 && PyType_CheckExact(protocol) && PyType_CheckExact(reader))
        known = take_functions(st, protocol, reader, PyModule_GetDict(module));
    if (known > 0) {
        st->streams.protocol.type = (PyTypeObject *)Py_NewRef(protocol);
        st->streams.reader.type = (PyTypeObject *)Py_NewRef(reader);
    } else if (known < 0 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* others than ours to know */
        known = 0;
    }
    Py_XDECREF(protocol);
    Py_XDECREF(reader);
    Py_DECREF(module);
    return known < 0 ? -1 : 0;
}

int taut_stream_names_traverse(taut_state *st, visitproc visit, void *arg) {
    taut_stream_names *k = &st->streams;
    Py_VISIT(k->protocol.type);
    Py_VISIT(k->reader.type);
    Py_VISIT(k->reader_property);
    for (int i = 0; i < TAUT_STREAM_FUNCTIONS; i++)
        Py_VISIT(k->functions[i]);
    return 0;
}

void taut_stream_names_clear(taut_state *st) {
    taut_stream_names *k = &st->streams;
    Py_CLEAR(k->protocol.type);
    Py_CLEAR(k->reader.type);
    Py_CLEAR(k->reader_property);
    for (int i = 0; i < TAUT_STREAM_FUNCTIONS; i++) {
        Py_CLEAR(k->functions[i]);
        Py_CLEAR(k->codes[i]);
    }
}

/* ---- are they still? ------------------------------------------------------------------------- */

/* Whether type.name is `wanted` (NULL: there is none). */
static int class_has(PyTypeObject *type, PyObject *name, PyObject *wanted) {
    PyObject *found = PyObject_GetAttr((PyObject *)type, name);
    if (found == NULL)
        PyErr_Clear();
    Py_XDECREF(found);
    return found == wanted;
}

/* Begins to look at a class again. Whether its attributes are looked up in the plain way, and those
 * of its instances, `names`, kept where they are found. */
static int look_at(taut_stream_class *c, PyObject *const *names, size_t count) {
    c->is_plain = 0;
    c->version = 0;
    return c->type->tp_getattro == PyObject_GenericGetAttr &&
           c->type->tp_setattro == PyObject_GenericSetAttr &&
           taut_attrs_learn(&c->attrs, c->type, names, count) == 0;
}

static void look_at_protocol(taut_state *st) {
    taut_stream_names *k = &st->streams;
    PyTypeObject *type = k->protocol.type;
    PyObject *names[PROTOCOL_NAMES] = {
        [READER_WR] = st->str__stream_reader_wr,
        [OWN_DATA_RECEIVED] = st->str_data_received,
    };
    k->protocol.is_plain =
        look_at(&k->protocol, names, PROTOCOL_NAMES) &&
        class_has(type, st->str_data_received, k->functions[TAUT_STREAM_DATA_RECEIVED]) &&
        class_has(type, st->str__stream_reader, k->reader_property) &&
        class_has(type, st->str__stream_reader_wr, NULL);
    k->protocol.version = type->tp_version_tag;
}

static void look_at_reader(taut_state *st) {
    taut_stream_names *k = &st->streams;
    PyTypeObject *type = k->reader.type;
    PyObject *names[READER_NAMES] = {
        [BUFFER] = st->str__buffer,          [EOF_FED] = st->str__eof,
        [WAITER] = st->str__waiter,          [TRANSPORT] = st->str__transport,
        [PAUSED] = st->str__paused,          [LIMIT] = st->str__limit,
        [OWN_FEED_DATA] = st->str_feed_data, [OWN_WAKE_UP] = st->str__wakeup_waiter,
    };
    int is = look_at(&k->reader, names, READER_NAMES) &&
             class_has(type, st->str_feed_data, k->functions[TAUT_STREAM_FEED_DATA]) &&
             class_has(type, st->str__wakeup_waiter, k->functions[TAUT_STREAM_WAKE_UP]);
    for (int i = 0; is && i < READER_FIELDS; i++)
        is = k->reader.attrs.at[i] >= 0 && class_has(type, names[i], NULL);
    k->reader.is_plain = is;
    k->reader.version = type->tp_version_tag;
}

/* A class gets another version whenever one of its attributes, or of its bases', changes. */
static int is_seen(const taut_stream_class *c) {
    return c->version != 0 && c->version == c->type->tp_version_tag &&
           !taut_attrs_outdated(&c->attrs);
}

static int are_unpatched(taut_state *st) {
    taut_stream_names *k = &st->streams;
    if (TAUT_UNLIKELY(!is_seen(&k->protocol)))
        look_at_protocol(st);
    if (TAUT_UNLIKELY(!is_seen(&k->reader)))
        look_at_reader(st);
    for (int i = 0; i < TAUT_STREAM_FUNCTIONS; i++) /* a class knows nothing of other code */
        if (TAUT_UNLIKELY(PyFunction_GET_CODE(k->functions[i]) != k->codes[i]))
            return 0;
    return k->protocol.is_plain && k->reader.is_plain;
}

/* NULL: it has none. */
static PyObject *attr(const taut_attrs *a, PyObject **values, int which) {
    return a->at[which] < 0 ? NULL : values[a->at[which]];
}

/* ---- feeding --------------------------------------------------------------------------------- */

/* A reader as it is now; all borrowed. */
typedef struct {
    PyObject *fields[READER_FIELDS];
    PyObject **waiter_at;
    PyObject *pause; /* owned: what pauses the transport, if that is due */
} reader_state;

/* 1: `r` is filled; 0: there is something that the method must see to. */
static int look_at_state(taut_state *st, taut_pyloop *lp, PyObject *reader, reader_state *r) {
    const taut_attrs *a = &st->streams.reader.attrs;
    PyObject **values = taut_attrs_values(reader);
    if (values == NULL || attr(a, values, OWN_FEED_DATA) != NULL ||
        attr(a, values, OWN_WAKE_UP) != NULL)
        return 0;
    for (int i = 0; i < READER_FIELDS; i++)
        if ((r->fields[i] = values[a->at[i]]) == NULL)
            return 0;
    r->waiter_at = &values[a->at[WAITER]];
    PyObject *buffer = r->fields[BUFFER], *waiter = r->fields[WAITER];
    if (r->fields[EOF_FED] != Py_False || !PyByteArray_CheckExact(buffer) ||
        ((PyByteArrayObject *)buffer)->ob_exports > 0 || !PyBool_Check(r->fields[PAUSED]))
        return 0;
    return waiter == Py_None || (taut_future_is_ours(lp, waiter) &&
                                 ((taut_future *)waiter)->aio.state != TAUT_FUTURE_FINISHED);
}

/* transport.pause_reading, if that is a method of a transport of ours; NULL with or without an
 * exception. */
static PyObject *pause_method(taut_state *st, PyObject *transport) {
    PyTypeObject *type = Py_TYPE(transport);
    if (type != st->transport_type && type != st->tls_type && type != st->read_pipe_type)
        return NULL;
    PyObject *method = PyObject_GetAttr(transport, st->str_pause_reading);
    if (method == NULL ||
        (PyCFunction_CheckExact(method) && PyCFunction_GET_SELF(method) == transport))
        return method;
    Py_DECREF(method);
    return NULL;
}

/* Whether so much is in the buffer that reading pauses. 1: no, or r->pause does it; 0: the method
 * must. */
static int look_at_limit(taut_state *st, reader_state *r, size_t size) {
    if (r->fields[PAUSED] == Py_True || r->fields[TRANSPORT] == Py_None)
        return 1;
    if (!PyLong_CheckExact(r->fields[LIMIT]))
        return 0;
    Py_ssize_t limit = PyLong_AsSsize_t(r->fields[LIMIT]);
    if (limit < 0 || limit > PY_SSIZE_T_MAX / 2) {
        PyErr_Clear();
        return 0;
    }
    if ((size_t)PyByteArray_GET_SIZE(r->fields[BUFFER]) + size <= 2 * (size_t)limit)
        return 1;
    r->pause = pause_method(st, r->fields[TRANSPORT]);
    if (r->pause == NULL)
        PyErr_Clear();
    return r->pause != NULL;
}

static int append(PyObject *buffer, const uint8_t *bytes, size_t size) {
    Py_ssize_t before = PyByteArray_GET_SIZE(buffer);
    if (size > (size_t)(PY_SSIZE_T_MAX - before)) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyByteArray_Resize(buffer, before + (Py_ssize_t)size) < 0)
        return -1;
    memcpy(PyByteArray_AS_STRING(buffer) + before, bytes, size);
    return 0;
}

/* _wakeup_waiter() */
static int wake_up(taut_pyloop *lp, reader_state *r) {
    taut_future *waiter = (taut_future *)r->fields[WAITER];
    *r->waiter_at = Py_NewRef(Py_None); /* its reference is ours now */
    int rc = 0;
    if (waiter->aio.state == TAUT_FUTURE_PENDING)
        rc = taut_future_complete(lp, &waiter->aio, Py_None);
    Py_DECREF((PyObject *)waiter);
    return rc;
}

static int pause_reading(taut_state *st, PyObject *reader, PyObject *method) {
    PyObject *done = PyObject_CallNoArgs(method);
    Py_XDECREF(done);
    return done == NULL ? -1 : PyObject_SetAttr(reader, st->str__paused, Py_True);
}

static int feed_data(taut_pyloop *lp, PyObject *reader, const uint8_t *bytes, size_t size) {
    taut_state *st = lp->st;
    reader_state r = {.pause = NULL};
    if (Py_TYPE(reader) != st->streams.reader.type || !look_at_state(st, lp, reader, &r) ||
        !look_at_limit(st, &r, size))
        return 0;
    int rc = append(r.fields[BUFFER], bytes, size);
    if (rc == 0 && r.fields[WAITER] != Py_None)
        rc = wake_up(lp, &r);
    if (rc == 0 && r.pause != NULL)
        rc = pause_reading(st, reader, r.pause);
    Py_XDECREF(r.pause);
    return rc < 0 ? -1 : 1;
}

int taut_stream_reader_feed(taut_pyloop *lp, PyObject *protocol, const uint8_t *bytes,
                            size_t size) {
    taut_state *st = lp->st;
    const taut_attrs *a = &st->streams.protocol.attrs;
    if (TAUT_UNLIKELY(lp->debug || Py_TYPE(protocol) != st->streams.protocol.type ||
                      !are_unpatched(st)))
        return 0;
    PyObject **values = taut_attrs_values(protocol);
    if (values == NULL || attr(a, values, OWN_DATA_RECEIVED) != NULL)
        return 0;
    PyObject *wr = attr(a, values, READER_WR);
    if (wr == Py_None)
        return 1; /* the connection was lost: nobody is there to read */
    if (wr == NULL || !PyWeakref_CheckRefExact(wr))
        return 0;
    PyObject *reader = taut_weakref_get(wr);
    if (reader == NULL)
        return 1;
    int rc = feed_data(lp, reader, bytes, size);
    Py_DECREF(reader);
    return rc;
}
