/* Names and imports of the module's state. */
#include "binding/state.h"

static PyObject *import_attribute(const char *module_name, const char *attribute) {
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL)
        return NULL;
    if (attribute == NULL)
        return module;
    PyObject *value = PyObject_GetAttrString(module, attribute);
    Py_DECREF(module);
    return value;
}

/* The C function behind a method, to be called without looking it up; NULL without an exception
 * where it is something else. */
static PyCFunction method_without_args(PyObject *type, PyObject *name) {
    PyObject *method = PyObject_GetAttr(type, name);
    PyCFunction function = NULL;
    if (method == NULL)
        PyErr_Clear();
    else if (Py_IS_TYPE(method, &PyMethodDescr_Type) &&
             ((PyMethodDescrObject *)method)->d_method->ml_flags == METH_NOARGS)
        function = ((PyMethodDescrObject *)method)->d_method->ml_meth;
    Py_XDECREF(method);
    return function;
}

int taut_state_init(PyObject *module, taut_state *st) {
    (void)module;
#define TAUT_NAME_INTERN(n)                                                                        \
    if ((st->str_##n = PyUnicode_InternFromString(#n)) == NULL)                                    \
        return -1;
    TAUT_NAMES(TAUT_NAME_INTERN)
#undef TAUT_NAME_INTERN
#define TAUT_IMPORT_LOAD(f, m, a)                                                                  \
    if ((st->f = import_attribute(m, a)) == NULL)                                                  \
        return -1;
    TAUT_IMPORTS(TAUT_IMPORT_LOAD)
#undef TAUT_IMPORT_LOAD
    st->socket_fileno = method_without_args(st->socket_type, st->str_fileno);
    st->kw_context = PyTuple_Pack(1, st->str_context);
    st->kw_msg = PyTuple_Pack(1, st->str_msg);
    st->own.set_result = PyObject_GetAttr(st->future_type, st->str_set_result);
    st->own.set_exception = PyObject_GetAttr(st->future_type, st->str_set_exception);
    st->own.cancel = PyObject_GetAttr(st->future_type, st->str_cancel);
    st->empty_bytes = PyBytes_FromStringAndSize(NULL, 0);
    return PyErr_Occurred() ? -1 : taut_stream_names_init(st);
}

int taut_state_traverse(taut_state *st, visitproc visit, void *arg) {
    Py_VISIT(st->loop_type);
    Py_VISIT(st->handle_type);
    Py_VISIT(st->timer_handle_type);
    Py_VISIT(st->threadsafe_handle_type);
    Py_VISIT(st->transport_type);
    Py_VISIT(st->dgram_type);
    Py_VISIT(st->server_type);
    Py_VISIT(st->own.future_type);
    Py_VISIT(st->own.task_type);
    Py_VISIT(st->own.set_result);
    Py_VISIT(st->own.set_exception);
    Py_VISIT(st->own.cancel);
    Py_VISIT(st->own.inner_dirs);
    Py_VISIT(st->own.library_dirs);
    Py_VISIT(st->own.runners);
    Py_VISIT(st->own.notice);
    Py_VISIT(st->own.warn_unawaited);
    Py_VISIT(st->tls_type);
    Py_VISIT(st->read_pipe_type);
    Py_VISIT(st->write_pipe_type);
#define TAUT_SSL_VISIT(f, a) Py_VISIT(st->ssl.f);
    TAUT_SSL_NAMES(TAUT_SSL_VISIT)
#undef TAUT_SSL_VISIT
    Py_VISIT(st->ssl.socket_type);
    Py_VISIT(st->ssl.unused_in);
    Py_VISIT(st->ssl.unused_out);
    Py_VISIT(st->watchdog_type);
    Py_VISIT(st->op_type);
    Py_VISIT(st->executor_call_type);
    Py_VISIT(st->request_type);
    Py_VISIT(st->child_type);
    Py_VISIT(st->process_pipe_type);
    Py_VISIT(st->process_transport_type);
    Py_VISIT(st->task_step_type);
    Py_VISIT(st->task_wakeup_type);
    int rc = taut_stream_names_traverse(st, visit, arg);
    if (rc != 0)
        return rc;
#define TAUT_IMPORT_VISIT(f, m, a) Py_VISIT(st->f);
    TAUT_IMPORTS(TAUT_IMPORT_VISIT)
#undef TAUT_IMPORT_VISIT
    return 0;
}

int taut_state_clear(taut_state *st) {
    taut_handle_freelists_clear(st);
    taut_op_freelist_clear(st);
    taut_task_freelists_clear(st);
    Py_CLEAR(st->loop_type);
    Py_CLEAR(st->handle_type);
    Py_CLEAR(st->timer_handle_type);
    Py_CLEAR(st->threadsafe_handle_type);
    Py_CLEAR(st->transport_type);
    Py_CLEAR(st->dgram_type);
    Py_CLEAR(st->server_type);
    Py_CLEAR(st->own.future_type);
    Py_CLEAR(st->own.task_type);
    Py_CLEAR(st->own.set_result);
    Py_CLEAR(st->own.set_exception);
    Py_CLEAR(st->own.cancel);
    Py_CLEAR(st->own.inner_dirs);
    Py_CLEAR(st->own.library_dirs);
    Py_CLEAR(st->own.runners);
    Py_CLEAR(st->own.notice);
    Py_CLEAR(st->own.warn_unawaited);
    for (size_t i = 0; i < TAUT_FILES_SEEN; i++)
        Py_CLEAR(st->own.files[i].name);
    Py_CLEAR(st->tls_type);
    Py_CLEAR(st->read_pipe_type);
    Py_CLEAR(st->write_pipe_type);
#define TAUT_SSL_CLEAR(f, a) Py_CLEAR(st->ssl.f);
    TAUT_SSL_NAMES(TAUT_SSL_CLEAR)
#undef TAUT_SSL_CLEAR
    Py_CLEAR(st->ssl.socket_type);
    Py_CLEAR(st->ssl.unused_in);
    Py_CLEAR(st->ssl.unused_out);
    Py_CLEAR(st->watchdog_type);
    Py_CLEAR(st->op_type);
    Py_CLEAR(st->executor_call_type);
    Py_CLEAR(st->request_type);
    Py_CLEAR(st->child_type);
    Py_CLEAR(st->process_pipe_type);
    Py_CLEAR(st->process_transport_type);
    Py_CLEAR(st->task_step_type);
    Py_CLEAR(st->task_wakeup_type);
    taut_stream_names_clear(st);
    Py_CLEAR(st->kw_context);
    Py_CLEAR(st->kw_msg);
    Py_CLEAR(st->empty_bytes);
#define TAUT_NAME_CLEAR(n) Py_CLEAR(st->str_##n);
    TAUT_NAMES(TAUT_NAME_CLEAR)
#undef TAUT_NAME_CLEAR
#define TAUT_IMPORT_CLEAR(f, m, a) Py_CLEAR(st->f);
    TAUT_IMPORTS(TAUT_IMPORT_CLEAR)
#undef TAUT_IMPORT_CLEAR
    return 0;
}

taut_state *taut_state_of_type(PyTypeObject *type) {
    PyObject *module = PyType_GetModuleByDef(type, &taut_module_def);
    return module == NULL ? NULL : taut_state_of(module);
}
