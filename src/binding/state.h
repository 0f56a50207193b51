/* The module's state: types, interned names and borrowed entry points of the standard library,
 * all owned by the module object. One per interpreter. Every object of ours reaches it through its
 * loop (lp->st) or its type's module. */
#ifndef TAUT_BINDING_STATE_H
#define TAUT_BINDING_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "binding/names.h"
#include "binding/ssl_names.h"
#include "binding/stream_names.h"
#include "binding/task_names.h"

#if PY_VERSION_HEX >= 0x030E0000
#define TAUT_THREADSAFE_IMPORTS(X) X(base_threadsafe_handle, "asyncio.events", "_ThreadSafeHandle")
#else
#define TAUT_THREADSAFE_IMPORTS(X)
#endif

/* X(field, module, attribute): an object imported once at module start; NULL: the module. */
#define TAUT_IMPORTS(X)                                                                            \
    X(future_type, "_asyncio", "Future")                                                           \
    X(executor_future, "concurrent.futures", "Future")                                             \
    X(convert_future_exc, "asyncio.futures", "_convert_future_exc")                                \
    X(copy_future_state, "asyncio.futures", "_copy_future_state")                                  \
    X(task_type, "_asyncio", "Task")                                                               \
    X(base_transport, "asyncio.transports", "_FlowControlMixin")                                   \
    X(datagram_transport, "asyncio", "DatagramTransport")                                          \
    X(transport_socket, "asyncio.trsock", "TransportSocket")                                       \
    X(check_ssl_socket, "asyncio.base_events", "_check_ssl_socket")                                \
    X(base_read_transport, "asyncio.transports", "ReadTransport")                                  \
    X(base_server, "asyncio", "AbstractServer")                                                    \
    X(queue_type, "asyncio", "Queue")                                                              \
    X(base_handle, "asyncio", "Handle")                                                            \
    X(base_timer_handle, "asyncio", "TimerHandle")                                                 \
    TAUT_THREADSAFE_IMPORTS(X)                                                                     \
    X(base_protocol, "asyncio", "BaseProtocol")                                                    \
    X(buffered_protocol, "asyncio", "BufferedProtocol")                                            \
    X(sendfile_unavailable, "asyncio", "SendfileNotAvailableError")                                \
    X(io_unsupported, "io", "UnsupportedOperation")                                                \
    X(os_pread, "os", "pread")                                                                     \
    X(logger, "asyncio.log", "logger")                                                             \
    X(extract_stack, "asyncio.format_helpers", "extract_stack")                                    \
    X(socket_type, "socket", "socket")                                                             \
    X(socket_module, "socket", NULL)                                                               \
    X(get_exec_path, "os", "get_exec_path")                                                        \
    X(getaddrinfo, "socket", "getaddrinfo")                                                        \
    X(getnameinfo, "socket", "getnameinfo")                                                        \
    X(address_family, "socket", "AddressFamily")                                                   \
    X(socket_kind, "socket", "SocketKind")                                                         \
    X(gaierror, "socket", "gaierror")                                                              \
    TAUT_TASK_IMPORTS(X)

#define TAUT_OP_FREELIST_MAX 256

typedef struct taut_state {
    PyTypeObject *loop_type, *handle_type, *timer_handle_type, *transport_type, *server_type;
    PyTypeObject *threadsafe_handle_type; /* from 3.14 on */
    PyTypeObject *dgram_type;
    PyTypeObject *tls_type, *read_pipe_type, *write_pipe_type;
    taut_task_names own; /* of the own futures and tasks */
    PyTypeObject *watchdog_type, *op_type, *executor_call_type;
    PyTypeObject *request_type;
    PyTypeObject *child_type, *process_pipe_type, *process_transport_type;
    /* What _asyncio passes to call_soon for a task's step and wake-up; see ready.h. */
    PyTypeObject *task_step_type, *task_wakeup_type;
    PyMethodDef *task_wakeup_def;
#define TAUT_NAME_FIELD(n) PyObject *str_##n;
    TAUT_NAMES(TAUT_NAME_FIELD)
#undef TAUT_NAME_FIELD
#define TAUT_IMPORT_FIELD(f, m, a) PyObject *f;
    TAUT_IMPORTS(TAUT_IMPORT_FIELD)
#undef TAUT_IMPORT_FIELD
    PyObject *kw_context, *kw_msg; /* ("context",), ("msg",) */
    PyObject *empty_bytes;
    taut_ssl_names ssl;
    PyCFunction socket_fileno; /* socket.socket.fileno's; NULL: call the method */
    taut_stream_names streams;
    PyObject *handle_freelist[TAUT_FREELIST_MAX], *timer_freelist[TAUT_FREELIST_MAX];
    PyObject *threadsafe_freelist[TAUT_FREELIST_MAX];
    int handle_free_count, timer_free_count, threadsafe_free_count;
    PyObject *op_freelist[TAUT_OP_FREELIST_MAX];
    int op_free_count;
} taut_state;

extern struct PyModuleDef taut_module_def;
static inline taut_state *taut_state_of(PyObject *module) {
    return (taut_state *)PyModule_GetState(module);
}
/* The state of a (subclass of a) type of ours; NULL with an exception set. */
taut_state *taut_state_of_type(PyTypeObject *type);

/* Fill, visit and clear the names and imports. 0, or -1 with an exception set. */
int taut_state_init(PyObject *module, taut_state *st);
int taut_state_traverse(taut_state *st, visitproc visit, void *arg);
int taut_state_clear(taut_state *st);

/* stream_reader.c: the part about asyncio's streams. */
int taut_stream_names_init(taut_state *st);
int taut_stream_names_traverse(taut_state *st, visitproc visit, void *arg);
void taut_stream_names_clear(taut_state *st);

/* Each file of a type supplies one; it adds its type to the module. 0, or -1 with an exception. */
int taut_handle_types_add(PyObject *module, taut_state *st);
void taut_handle_freelists_clear(taut_state *st);
void taut_op_freelist_clear(taut_state *st);
void taut_task_freelists_clear(taut_state *st);
int taut_loop_type_add(PyObject *module, taut_state *st);
int taut_future_type_add(PyObject *module, taut_state *st);
int taut_task_type_add(PyObject *module, taut_state *st);
int taut_transport_type_add(PyObject *module, taut_state *st);
int taut_pipe_types_add(PyObject *module, taut_state *st);
int taut_dgram_type_add(PyObject *module, taut_state *st);
int taut_tls_type_add(PyObject *module, taut_state *st);
int taut_server_type_add(PyObject *module, taut_state *st);
int taut_op_type_add(PyObject *module, taut_state *st);
int taut_executor_type_add(PyObject *module, taut_state *st);
int taut_doctor_add(PyObject *module, taut_state *st);
int taut_request_type_add(PyObject *module, taut_state *st);
int taut_findings_functions_add(PyObject *module, taut_state *st);
int taut_listing_functions_add(PyObject *module, taut_state *st);

#endif
