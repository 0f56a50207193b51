/* taut._core.SSLTransport: a TLS connection over one of our socket transports (`lower`), whose
 * protocol it is. To its own protocol it is what asyncio.sslproto's transport is, and it goes
 * through the same states. The records are OpenSSL's business (io/tls.h); the handshake and the
 * closing handshake run through the connection's ssl.SSLObject, so that callbacks and exceptions
 * are the ssl module's own.
 *
 * Ownership: lower and this one own each other until connection_lost. The SSL* belongs to
 * `sslobject`. User code is called in the context that is current: the user's in his own calls,
 * lower's where lower calls its protocol, and else between taut_tls_enter and taut_tls_leave. GIL
 * held, loop thread. */
#ifndef TAUT_BINDING_TLS_TRANSPORT_H
#define TAUT_BINDING_TLS_TRANSPORT_H

#include "binding/transport.h"
#include "io/tls.h"

enum taut_tls_state {
    TAUT_TLS_UNWRAPPED, /* before connection_made, and after the end */
    TAUT_TLS_HANDSHAKE,
    TAUT_TLS_WRAPPED,
    TAUT_TLS_FLUSHING, /* closing: what was written must leave first */
    TAUT_TLS_SHUTDOWN, /* close_notify sent, the peer's awaited */
};

enum taut_tls_app { TAUT_APP_INIT, TAUT_APP_MADE, TAUT_APP_EOF, TAUT_APP_LOST };

struct taut_tls_deadline; /* tls_close.c: a timer that outlives nobody */

typedef struct taut_tls_transport {
    PyObject_HEAD PyObject *extra; /* asyncio.BaseTransport's slot: a dict, or NULL until needed */
    PyObject *unused_slots[4];     /* asyncio._FlowControlMixin's; our own fields replace them */
    PyObject *dict, *weaklist;
    taut_pyloop *lp;       /* owned */
    taut_transport *lower; /* owned; NULL before connection_made */
    PyObject *protocol;    /* owned; NULL after connection_lost */
    PyObject *sslobject, *sslcontext;
    PyObject *waiter;      /* future for the handshake's end, or NULL */
    PyObject *backlog;     /* list of bytes-like objects not encrypted yet, or NULL: none */
    Py_ssize_t backlog_at; /* index of the first that is left */
    size_t backlog_offset; /* bytes of it that have been encrypted */
    size_t backlog_size;   /* bytes left in all */
    PyObject *sendfile;    /* the operation that sends a file, while it waits; or NULL */
    taut_tls tls;          /* direct: see tls_engine.h */
    PyObject *memory_in, *memory_out; /* ssl.MemoryBIOs, NULL in direct mode */
    PyObject *memory_error;           /* why the last call failed, until it is asked for */
    PyObject *made_at;                /* taut_debug_made_at */
    taut_list queue_link;             /* among the loop's waiting handshakes */
    struct taut_tls_deadline *handshake_deadline, *shutdown_deadline;
    double handshake_timeout, shutdown_timeout; /* seconds */
    size_t high, low;                           /* water marks of what is written, bytes */
    size_t read_high, read_low; /* of ciphertext that waits while the protocol has paused */
    uint64_t began_ns;          /* the handshake; debug mode */
    unsigned conn_lost;         /* as asyncio counts: writes that went nowhere */
    uint8_t state, app;         /* taut_tls_state, taut_tls_app */
    unsigned server_side : 1, accepted : 1, buffered : 1, closed : 1, eof_received : 1,
        reading_paused : 1, lower_paused : 1, writing_paused : 1, lower_full : 1, lost : 1,
        secured : 1, gathering : 1, streams : 1;
    /* secured: the handshake is done. gathering: writelines() has more to come, and the protocol's
     * pause_writing() must not write in between. streams: it is asyncio's StreamReaderProtocol. */
} taut_tls_transport;

/* A connection without its lower transport, which must then be made with it as protocol. Borrowed
 * arguments; waiter may be NULL. NULL with what asyncio raises for bad timeouts, or wrap_bio(). */
PyObject *taut_tls_new(taut_pyloop *lp, PyObject *protocol, PyObject *context, PyObject *waiter,
                       int server_side, PyObject *server_hostname, PyObject *handshake_timeout,
                       PyObject *shutdown_timeout, int call_connection_made);
/* Loop._make_tls(...) for python/taut/_tls.py. */
PyObject *taut_tls_m_make(PyObject *loop, PyObject *args, PyObject *kwargs);

/* ---- tls_transport.c ---- */
/* Calls protocol.<name>(args[1], ...); args[0] and args[-1] are scratch. NULL with an exception. */
PyObject *taut_tls_call(taut_tls_transport *c, PyObject *name, PyObject **args, size_t nargs);
/* Around work that no user code called: enters lower's context. begin: 0, or -1 (reported). */
int taut_tls_enter(taut_tls_transport *c);
void taut_tls_leave(taut_tls_transport *c);
/* asyncio's _fatal_error for `exc` (borrowed) or for the exception that is set: lower closes at
 * once; only OSErrors are not reported. */
void taut_tls_fatal(taut_tls_transport *c, PyObject *exc, const char *message);
void taut_tls_fatal_raised(taut_tls_transport *c, const char *message);
void taut_tls_wake_waiter(taut_tls_transport *c, PyObject *exc);
/* call_exception_handler with this transport and its protocol; nothing is closed. */
void taut_tls_report(taut_tls_transport *c, PyObject *exc, const char *message);
int taut_tls_set_protocol(taut_tls_transport *c, PyObject *protocol); /* 0, or -1 */
/* Whether lower is still there to be written to. */
int taut_tls_is_open(const taut_tls_transport *c);
/* Lends the loop's spare buffer to c->tls.out for the records of one operation. */
void taut_tls_out_begin(taut_tls_transport *c);
/* Hands what has collected to lower unless lower is full; tells the protocol to pause or go on. */
void taut_tls_out_send(taut_tls_transport *c);

/* ---- tls_handshake.c ---- */
void taut_tls_handshake_start(taut_tls_transport *c);
/* The next step, at once or when its turn comes. */
void taut_tls_handshake_go(taut_tls_transport *c);
/* Its end: exc NULL for success. */
void taut_tls_handshake_done(taut_tls_transport *c, PyObject *exc);
void taut_tls_handshake_unqueue(taut_tls_transport *c);
/* Reports, in debug mode, why a server's connection came to nothing. */
void taut_tls_tell_accept_failed(taut_tls_transport *c, PyObject *exc);

/* ---- tls_read.c ---- */
/* taut_transport's hook: ciphertext, valid during the call. */
void taut_tls_on_data(PyObject *self, const uint8_t *bytes, size_t size);
void taut_tls_read_go(taut_tls_transport *c);
void taut_tls_eof_received(taut_tls_transport *c);
/* lower pauses and goes on with the amount of ciphertext that waits. */
void taut_tls_control_reading(taut_tls_transport *c);
PyObject *taut_tls_m_data_early(PyObject *self, PyObject *bytes);
PyObject *taut_tls_m_is_reading(PyObject *self, PyObject *unused);
PyObject *taut_tls_m_reading_resumed(PyObject *self, PyObject *unused);
PyObject *taut_tls_m_pause_reading(PyObject *self, PyObject *unused);
PyObject *taut_tls_m_resume_reading(PyObject *self, PyObject *unused);

/* ---- tls_write.c ---- */
/* Encrypts and sends of the backlog what lower takes. */
void taut_tls_write_go(taut_tls_transport *c);
/* Encrypts and sends until lower is full. How many bytes were taken, -1 after a fatal error. */
Py_ssize_t taut_tls_encrypt(taut_tls_transport *c, const char *bytes, size_t size);
void taut_tls_backlog_clear(taut_tls_transport *c);
/* asyncio's _control_app_writing. */
void taut_tls_control_writing(taut_tls_transport *c);
PyObject *taut_tls_m_write(PyObject *self, PyObject *data);
PyObject *taut_tls_m_writelines(PyObject *self, PyObject *list_of_data);
/* What CPython's own tests of TLS transports fill the backlog with. */
PyObject *taut_tls_m_append_backlog(PyObject *self, PyObject *data);

/* ---- tls_sendfile.c ---- */
/* Loop._tls_send_file(...) for python/taut/_sendfile.py. */
PyObject *taut_tls_m_send_file(PyObject *loop, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);
/* lower takes more, or is gone (exc: why, or NULL): a waiting file goes on. */
void taut_tls_file_wake(taut_tls_transport *c, PyObject *exc);

/* ---- tls_info.c ---- */
PyObject *taut_tls_m_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *taut_tls_repr(PyObject *self);
extern PyGetSetDef taut_tls_getset[];

/* ---- tls_close.c ---- */
void taut_tls_shutdown_start(taut_tls_transport *c);
void taut_tls_flush_go(taut_tls_transport *c);
void taut_tls_shutdown_go(taut_tls_transport *c);
void taut_tls_abort(taut_tls_transport *c, PyObject *exc);
/* Starts or stops one of the two deadlines; start: 0, or -1 with an exception. */
int taut_tls_deadline_start(taut_tls_transport *c, struct taut_tls_deadline **slot, double seconds);
void taut_tls_deadline_stop(taut_tls_transport *c, struct taut_tls_deadline **slot);
PyObject *taut_tls_m_eof_received(PyObject *self, PyObject *unused);
PyObject *taut_tls_m_connection_lost(PyObject *self, PyObject *exc);

#endif
