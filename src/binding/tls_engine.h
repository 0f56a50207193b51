/* The two ways of a TLS connection to OpenSSL, behind one set of calls:
 *   direct: our BIO on the SSL* inside the ssl.SSLObject (io/tls.h, tls_openssl.h);
 *   memory: the object's own methods and two ssl.MemoryBIOs, for contexts of which direct access
 *           cannot be proven safe.
 * What is to be sent collects in c->tls.out in either case. GIL held, loop thread. */
#ifndef TAUT_BINDING_TLS_ENGINE_H
#define TAUT_BINDING_TLS_ENGINE_H

#include "binding/tls_transport.h"

/* Makes c->sslobject and connects it. `server_hostname`: None for none. 0, or -1 with what
 * wrap_bio() raises. */
int taut_tls_engine_begin(taut_tls_transport *c, PyObject *context, PyObject *server_hostname);
/* Idempotent; the object stays, for who asks it about the peer. */
void taut_tls_engine_end(taut_tls_transport *c);
static inline int taut_tls_engine_live(const taut_tls_transport *c) {
    return c->tls.ssl != NULL || c->memory_in != NULL;
}

/* As the functions of io/tls.h; 0, or a negative error (-1 with an exception set in memory mode
 * becomes TAUT_E_TLS_FAILED, kept for taut_tls_engine_error). */
int taut_tls_engine_feed(taut_tls_transport *c, const uint8_t *bytes, size_t size);
int taut_tls_engine_settle(taut_tls_transport *c);
size_t taut_tls_engine_held_size(const taut_tls_transport *c);
ssize_t taut_tls_engine_read(taut_tls_transport *c, char *to, size_t room);
int taut_tls_engine_readable(taut_tls_transport *c);
ssize_t taut_tls_engine_write(taut_tls_transport *c, const char *from, size_t size);
/* An upper bound of the plaintext that reading can bring now. */
size_t taut_tls_engine_plain_max(taut_tls_transport *c);
/* Moves what OpenSSL has written to c->tls.out. 0 or -ENOMEM. */
int taut_tls_engine_collect(taut_tls_transport *c);
/* The exception for a negative answer of the calls above; new reference, NULL with an exception
 * when memory is out. */
PyObject *taut_tls_engine_error(taut_tls_transport *c, ssize_t rc);

#endif
