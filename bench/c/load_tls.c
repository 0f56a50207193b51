/* TLS of the load: OpenSSL on the socket itself. No session is ever resumed. The certificate's
 * issuer is not checked, its signature of the handshake is. */
#include "load.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { PATIENCE_MS = 10000 };

static SSL_CTX *ctx;
static char parameters[128];

static void complain(const char *what) {
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    fprintf(stderr, "loadgen: TLS %s: %s\n", what, reason ? reason : "connection lost");
}

int taut_load_tls_start(void) {
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx) {
        complain("set-up");
        return -1;
    }
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return 0;
}

void taut_load_tls_end(void) {
    SSL_CTX_free(ctx);
    ctx = NULL;
}

const char *taut_load_tls_parameters(void) {
    return parameters;
}

/* The result of a call of OpenSSL as that of a system call. */
static ssize_t as_system_call(SSL *ssl, int got) {
    if (got > 0) {
        return got;
    }
    switch (SSL_get_error(ssl, got)) {
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    default:
        errno = ECONNRESET;
        return -1;
    }
}

ssize_t taut_load_tls_send(taut_load_conn *c, const char *data, size_t size) {
    ERR_clear_error();
    return as_system_call(c->tls, SSL_write(c->tls, data, (int)size));
}

ssize_t taut_load_tls_recv(taut_load_conn *c, char *data, size_t size) {
    ERR_clear_error();
    return as_system_call(c->tls, SSL_read(c->tls, data, (int)size));
}

/* 1 when done, 0 when something has to come first, -1 when it failed. */
static int step(taut_load_conn *c) {
    ERR_clear_error();
    int got = SSL_do_handshake(c->tls);
    if (got == 1) {
        if (!parameters[0]) {
            snprintf(parameters, sizeof parameters, "%s %s", SSL_get_version(c->tls),
                     SSL_get_cipher_name(c->tls));
        }
        return SSL_session_reused(c->tls) ? -1 : 1;
    }
    int error = SSL_get_error(c->tls, got);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

int taut_load_tls_open(taut_load_conn *c, bool complete) {
    c->tls = SSL_new(ctx);
    if (!c->tls || SSL_set_fd(c->tls, c->fd) != 1) {
        complain("set-up");
        return -1;
    }
    SSL_set_connect_state(c->tls);
    int done = 0;
    while (complete && (done = step(c)) == 0) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        if (poll(&p, 1, PATIENCE_MS) != 1) {
            break;
        }
    }
    if (complete && done != 1) {
        complain("handshake");
        return -1;
    }
    return 0;
}

taut_load_state taut_load_tls_shake(taut_load_conn *c) {
    int done = step(c);
    if (done != 1) {
        return done == 0 ? TAUT_LOAD_MORE : TAUT_LOAD_BROKEN;
    }
    char none;
    ssize_t n = taut_load_tls_recv(c, &none, 1);
    if (n < 0) {
        return errno == EAGAIN ? TAUT_LOAD_MORE : TAUT_LOAD_BROKEN;
    }
    return n == 0 ? TAUT_LOAD_DONE : TAUT_LOAD_BROKEN;
}

void taut_load_tls_close(taut_load_conn *c) {
    if (SSL_is_init_finished(c->tls)) {
        ERR_clear_error();
        SSL_shutdown(c->tls); /* says that we close; a server may be waiting for that */
    }
    SSL_free(c->tls);
    c->tls = NULL;
}
