/* taut._core.DatagramTransport: asyncio's datagram transport over io/dgram. The socket object is
 * always there and owns the fd; the transport closes it after connection_lost. The loop keeps a
 * transport alive while it reads, has datagrams to send, or closes; abandoned otherwise, it warns
 * and closes its socket. GIL held, loop thread. */
#ifndef TAUT_BINDING_DGRAM_TRANSPORT_H
#define TAUT_BINDING_DGRAM_TRANSPORT_H

#include "binding/addr.h"
#include "binding/fdtable.h"
#include "binding/pyloop.h"
#include "io/dgram.h"

typedef struct taut_endpoint {
    PyObject_HEAD PyObject *extra; /* asyncio.BaseTransport's slot _extra: a dict */
    /* Slots of asyncio's _FlowControlMixin; our own fields replace them. */
    PyObject *unused_slots[4];
    PyObject *dict, *weaklist;
    taut_pyloop *lp;     /* owned */
    PyObject *protocol;  /* owned; NULL after connection_lost */
    PyObject *context;   /* callbacks run in it */
    PyObject *sock;      /* NULL once it was closed */
    PyObject *address;   /* remote_addr, or NULL */
    PyObject *waiter;    /* future for "connection made" */
    PyObject *made_at;   /* taut_debug_made_at */
    PyObject *close_exc; /* what connection_lost will be told, when the core cannot know it */
    /* The sender of the last datagram as the protocol was given it, and raw: most answers go there,
     * and many datagrams come from where the last one came from. */
    PyObject *sender;
    taut_addr sender_raw;
    taut_dgram d;
    taut_member member;
    int fd, family;   /* fd: for repr; not closed through this */
    unsigned dropped; /* sends after the end */
    /* open: connection_lost has not run. orphan: the loop is closed. in_call: within a method that
     * user code called. to_peer: sends go to the connected peer, whatever address they name.
     * has_peer: the socket is connected. */
    unsigned open : 1, orphan : 1, starting : 1, paused : 1, in_call : 1, release_queued : 1,
        protocol_paused : 1, to_peer : 1, has_peer : 1;
} taut_endpoint;

static inline taut_endpoint *taut_endpoint_of(taut_dgram *d) {
    return TAUT_CONTAINER(d, taut_endpoint, d);
}

/* After anything that may change whether the loop must keep the transport alive. */
void taut_endpoint_update_hold(taut_endpoint *t);
/* 0, or -1 with RuntimeError when the loop is closed. */
int taut_endpoint_check(taut_endpoint *t);
/* Calls protocol.<name>(args[1], ...) in the transport's context. args[0] (the protocol's place)
 * and args[-1] are scratch; nargs counts from args[0]. NULL with an exception. */
PyObject *taut_endpoint_call(taut_endpoint *t, PyObject *name, PyObject **args, size_t nargs);
/* As taut_endpoint_call; what the protocol raises is reported with `message`, and the transport
 * goes on. KeyboardInterrupt and SystemExit leave run_forever. */
void taut_endpoint_tell(taut_endpoint *t, PyObject *name, PyObject **args, size_t nargs,
                        const char *message);
/* Closes with any exception object (NULL: None); nothing when it is lost already. */
void taut_endpoint_force_close(taut_endpoint *t, PyObject *exc);
/* asyncio's _fatal_error: OSErrors only close, the rest is reported first. */
void taut_endpoint_fatal(taut_endpoint *t, PyObject *exc, const char *message);
/* The same for the exception that is set. KeyboardInterrupt and SystemExit leave run_forever. */
void taut_endpoint_fatal_raised(taut_endpoint *t, const char *message);

/* dgram_read.c */
void taut_endpoint_on_received(taut_dgram *d, const uint8_t *bytes, size_t size,
                               const struct sockaddr *from, socklen_t from_size);
void taut_endpoint_on_readable(taut_dgram *d);
void taut_endpoint_on_error(taut_dgram *d, int err);
/* Starts reading unless paused or closing; closes with the error when that fails. */
void taut_endpoint_start_reading(taut_endpoint *t);
PyObject *taut_endpoint_m_pause_reading(PyObject *self, PyObject *unused);
PyObject *taut_endpoint_m_resume_reading(PyObject *self, PyObject *unused);
PyObject *taut_endpoint_m_is_reading(PyObject *self, PyObject *unused);

/* dgram_write.c */
int taut_endpoint_on_send_own(taut_dgram *d, void *token);
void taut_endpoint_on_pause(taut_dgram *d);
void taut_endpoint_on_resume(taut_dgram *d);
void taut_endpoint_on_release(void *token);
/* What was merely held back for the turn's end leaves now: asyncio would have sent it already, so
 * that abort() does not drop it, close() is not kept waiting by it, and no water mark counts it. */
void taut_endpoint_send_held(taut_endpoint *t);
PyObject *taut_endpoint_m_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames);
PyObject *taut_endpoint_m_buffer_size(PyObject *self, PyObject *unused);
PyObject *taut_endpoint_m_limits(PyObject *self, PyObject *unused);
PyObject *taut_endpoint_m_set_limits(PyObject *self, PyObject *args, PyObject *kwargs);

/* dgram_info.c */
/* Fills `extra` with what asyncio's has: socket, sockname, peername. 0, or -1 with an exception. */
int taut_endpoint_fill_extra(taut_endpoint *t, PyObject *given);
PyObject *taut_endpoint_repr(PyObject *self);
PyObject *taut_endpoint_m_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs);
extern PyGetSetDef taut_endpoint_getset[];

#endif
