/* One TLS connection between bytes from a socket and bytes to it: an SSL* of the caller's (client
 * or server, configured, before its handshake) whose BIO is replaced by one over memory. No system
 * calls, no Python: what is to be sent collects in `out`, what came is fed.
 *
 * Rules:
 *  1. The SSL* stays the caller's and outlives the taut_tls; taut_tls_end leaves it a BIO that only
 *     fails. The BIO belongs to the SSL*.
 *  2. Fed bytes are borrowed until taut_tls_settle, which keeps what OpenSSL has not taken yet.
 *  3. Functions of OpenSSL that the caller calls himself (SSL_do_handshake, SSL_shutdown) read and
 *     write through the same BIO, from any thread, but only one at a time.
 *  4. After TAUT_E_TLS_FAILED OpenSSL's error queue of this thread says why, the first time; a
 *     later call here clears it. A write may leave it empty: the peer closed during a handshake. */
#ifndef TAUT_IO_TLS_H
#define TAUT_IO_TLS_H

#include <sys/types.h>
#include "base/buf.h"
#include "io/tls_api.h"

typedef struct {
    const taut_tls_api *api;
    void *ssl, *bio;
    const uint8_t *in; /* fed and not taken yet, borrowed; after what is held */
    size_t in_size;
    taut_buf held;  /* what came earlier */
    taut_buf out;   /* records to be sent */
    int out_failed; /* memory was out for a record: the connection cannot go on */
    int read_end;   /* how the reads ended, 0: not yet; later ones say the same */
} taut_tls;

/* Makes the BIO method. 0 or -ENOMEM. A process has one api: it lives as long as the process. */
int taut_tls_api_init(taut_tls_api *api) TAUT_MUST_USE;

/* 0 or -ENOMEM, then nothing has changed. */
int taut_tls_begin(taut_tls *t, const taut_tls_api *api, void *ssl) TAUT_MUST_USE;
/* Gives all memory back. Idempotent; harmless on a zeroed struct. */
void taut_tls_end(taut_tls *t);

/* Bytes from the peer. 0 or -ENOMEM with nothing taken. */
int taut_tls_feed(taut_tls *t, const uint8_t *bytes, size_t size) TAUT_MUST_USE;
/* Before the fed bytes go away. 0 or -ENOMEM: they are lost, the connection cannot go on. */
int taut_tls_settle(taut_tls *t) TAUT_MUST_USE;
/* Ciphertext that waits for a read. */
static inline size_t taut_tls_held_size(const taut_tls *t) {
    return taut_buf_size(&t->held) + t->in_size;
}

/* Plaintext of at most one record into `to`. The number of bytes; 0: the next record is not
 * complete, or no room; TAUT_E_TLS_CLOSED: the peer's close_notify; TAUT_E_TLS_FAILED; -ENOMEM: an
 * answer (an alert, a new key) found no memory. The last three stay so. */
ssize_t taut_tls_read(taut_tls *t, void *to, size_t room) TAUT_MUST_USE;
/* Whether a read may bring more: 0 only when nothing has arrived that was not read. */
int taut_tls_readable(const taut_tls *t);
/* Encrypts into `out`. `size`; 0: not now (a handshake message is awaited), nothing was taken;
 * TAUT_E_TLS_FAILED; -ENOMEM: the connection cannot go on, and it stays so. */
ssize_t taut_tls_write(taut_tls *t, const void *from, size_t size) TAUT_MUST_USE;

#endif
