/* taut._core.Transport: asyncio's socket transport over io/stream. The loop keeps a transport alive
 * while it reads, has bytes to send, or closes; abandoned otherwise, it warns and closes its fd.
 *
 * The fd has one owner: the stream, until somebody asks for the socket object (or brings one); from
 * then on that object, which the transport closes after connection_lost. GIL held, loop thread. */
#ifndef TAUT_BINDING_TRANSPORT_H
#define TAUT_BINDING_TRANSPORT_H

#include "binding/addr.h"
#include "binding/fdtable.h"
#include "binding/pyloop.h"
#include "io/stream.h"

typedef struct taut_transport {
    PyObject_HEAD PyObject
        *extra; /* asyncio.BaseTransport's slot _extra: a dict, or NULL until needed */
    /* Slots of asyncio's _FlowControlMixin, which sendfile asks for; our own fields replace them.
     */
    PyObject *unused_slots[4];
    PyObject *dict, *weaklist;
    taut_pyloop *lp;     /* owned */
    PyObject *protocol;  /* owned; NULL after connection_lost */
    PyObject *context;   /* callbacks run in it */
    PyObject *sock;      /* the socket object that owns the fd, or NULL: the stream does */
    PyObject *server;    /* owned until closed; of any type with _attach and _detach */
    PyObject *waiter;    /* future for "connection made" */
    PyObject *close_exc; /* what connection_lost will be told, when the core cannot know it */
    PyObject *made_at;   /* taut_debug_made_at */
    /* What get_buffer() gave, until buffer_updated(); or the bytes object that a large read fills.
     */
    PyObject *read_buffer;
    PyObject *sendfile; /* the operation that sends a file; NULL: none, writes are welcome */
    /* Set when the protocol is one of our own in C: what data_received() would be told. */
    void (*layer)(PyObject *protocol, const uint8_t *bytes, size_t size);
    size_t large_size; /* of the last read, when it was large; 0: read through the loop's scratch */
    taut_stream stream;
    taut_member member;
    taut_list server_link; /* among the server's clients, when that is one of ours */
    taut_addr local, peer;
    int fd;           /* for repr; not closed through this */
    unsigned dropped; /* writes after the connection was lost */
    /* open: connection_lost has not run. orphan: the loop is closed. in_call: within a method that
     * user code called. gathering: writelines() has more to come, and pause_writing() must not
     * write in between. streams: the protocol is asyncio's StreamReaderProtocol. */
    unsigned open : 1, orphan : 1, starting : 1, paused : 1, in_call : 1, release_queued : 1,
        protocol_paused : 1, gathering : 1, streams : 1;
} taut_transport;

/* Over an fd (owned by the new transport, closed on failure, too), or over `sock` (then fd is its
 * number). Schedules connection_made, then the start of reading, then `waiter`. All borrowed; sock,
 * waiter, extra and server may be NULL. */
PyObject *taut_transport_new(taut_pyloop *lp, int fd, PyObject *sock, PyObject *protocol,
                             PyObject *waiter, PyObject *extra, PyObject *server,
                             const struct sockaddr *peer, socklen_t peer_size);

/* Closing with any exception object (NULL: None); nothing when it is lost already. */
void taut_transport_force_close(taut_transport *t, PyObject *exc);
/* asyncio's _fatal_error: OSErrors only close, the rest is reported first. */
void taut_transport_fatal(taut_transport *t, PyObject *exc, const char *message);
/* The same for the exception that is set. KeyboardInterrupt and SystemExit leave run_forever. */
void taut_transport_fatal_raised(taut_transport *t, const char *message);
/* call_exception_handler with the transport and its protocol; nothing is closed. */
void taut_transport_report(taut_transport *t, PyObject *exc, const char *message);
/* After anything that may change whether the loop must keep the transport alive. */
void taut_transport_update_hold(taut_transport *t);
/* Calls protocol.<name>(args[1], ...) in the transport's context. args[0] (the protocol's place)
 * and args[-1] are scratch; nargs counts from args[0]. NULL with an exception. */
PyObject *taut_transport_call(taut_transport *t, PyObject *name, PyObject **args, size_t nargs);
/* The socket object, made when missing; borrowed. NULL without an exception when closed. */
PyObject *taut_transport_socket(taut_transport *t);

/* Marks a transport type as one that start_tls and sendfile may use. `mode`: a member's name of
 * asyncio's _SendfileMode. 0, or -1. */
int taut_transport_mark_compatible(PyObject *type, const char *mode);

/* Leaves `t` without its fd: after connection_lost, or abandoned. */
void taut_transport_release_fd(taut_transport *t);
/* 0, or -1 with RuntimeError when the loop is closed. */
int taut_transport_check(taut_transport *t);

/* transport_read.c */
void taut_transport_on_data(taut_stream *s, const uint8_t *bytes, size_t size);
int taut_transport_on_get_buffer(taut_stream *s, size_t size_hint, void **bytes, size_t *size);
void taut_transport_on_filled(taut_stream *s, size_t size);
int taut_transport_on_eof(taut_stream *s);
int taut_transport_set_protocol(taut_transport *t, PyObject *protocol);
/* Starts reading unless paused or closing; 0, or -1 after closing with the error. */
int taut_transport_read_start(taut_transport *t);
PyObject *taut_transport_m_set_protocol(PyObject *self, PyObject *protocol);
PyObject *taut_transport_m_get_protocol(PyObject *self, PyObject *unused);
PyObject *taut_transport_m_pause_reading(PyObject *self, PyObject *unused);
PyObject *taut_transport_m_resume_reading(PyObject *self, PyObject *unused);
PyObject *taut_transport_m_is_reading(PyObject *self, PyObject *unused);

/* transport_write.c */
void taut_transport_on_pause(taut_stream *s);
void taut_transport_on_resume(taut_stream *s);
void taut_transport_on_release(void *token);
/* Sends or queues. `token` (or NULL: the bytes are copied where needed) is given away; `append`:
 * not at once, more follows. 0, or -1 with an exception. */
int taut_transport_send(taut_transport *t, const void *bytes, size_t size, PyObject *token,
                        int append);
/* Sends what was merely held back for the turn's end: asyncio would have sent it already, so that
 * neither abort() nor an exception of a callback drops it, close() is not kept waiting by it, and
 * no water mark counts it. */
void taut_transport_send_held(taut_transport *t);
PyObject *taut_transport_m_write(PyObject *self, PyObject *data);
PyObject *taut_transport_m_writelines(PyObject *self, PyObject *list_of_data);
PyObject *taut_transport_m_write_eof(PyObject *self, PyObject *unused);
PyObject *taut_transport_m_can_write_eof(PyObject *self, PyObject *unused);
PyObject *taut_transport_m_buffer_size(PyObject *self, PyObject *unused);
PyObject *taut_transport_m_limits(PyObject *self, PyObject *unused);
PyObject *taut_transport_m_set_limits(PyObject *self, PyObject *args, PyObject *kwargs);

/* transport_info.c */
PyObject *taut_transport_repr(PyObject *self);
PyObject *taut_transport_m_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs);
extern PyGetSetDef taut_transport_getset[];

#endif
