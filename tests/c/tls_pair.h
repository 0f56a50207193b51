/* A client and a server, each a taut_tls, with nothing between them but this file. Certificates
 * are made here. What is fed is a copy of its exact size that is overwritten and freed right after
 * taut_tls_settle, so that a borrowed byte read too late shows. */
#ifndef TAUT_TESTS_TLS_PAIR_H
#define TAUT_TESTS_TLS_PAIR_H

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include "base/err.h"
#include "check.h"
#include "io/tls.h"
#include "tls_cert.h"

#define WHOLE SIZE_MAX

typedef struct {
    taut_tls tls;
    SSL *ssl;
    uint8_t *got; /* the plaintext that came */
    size_t got_size, got_room;
} pair_side;
typedef struct {
    pair_side client, server;
} tls_pair;

static taut_tls_api pair_api;

static inline void pair_api_fill(void) {
    if (pair_api.bio_method != NULL)
        return;
#define PAIR_FILL(result, name, arguments)                                                         \
    pair_api.name = (result(*) arguments)(void (*)(void))name;
    TAUT_TLS_FUNCTIONS(PAIR_FILL)
#undef PAIR_FILL
    CHECK_EQ(taut_tls_api_init(&pair_api), 0);
}

static inline int side_begin(pair_side *s, SSL_CTX *ctx, int is_server) {
    *s = (pair_side){.ssl = SSL_new(ctx)};
    CHECK(s->ssl != NULL);
    SSL_set_mode(s->ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER); /* as Python's ssl does */
    if (is_server)
        SSL_set_accept_state(s->ssl);
    else
        SSL_set_connect_state(s->ssl);
    return taut_tls_begin(&s->tls, &pair_api, s->ssl);
}
static inline void side_end(pair_side *s) {
    taut_tls_end(&s->tls);
    SSL_free(s->ssl);
    free(s->got);
    *s = (pair_side){0};
}

/* `version` is TLS1_2_VERSION or TLS1_3_VERSION. */
static inline void pair_begin_with(tls_pair *p, cert_key key, int version) {
    pair_api_fill();
    CHECK_EQ(side_begin(&p->client, cert_client_ctx(), 0), 0);
    CHECK_EQ(side_begin(&p->server, cert_server_ctx(key), 1), 0);
    CHECK(SSL_set_min_proto_version(p->client.ssl, version) == 1);
    CHECK(SSL_set_max_proto_version(p->client.ssl, version) == 1);
}
static inline void pair_begin(tls_pair *p, int version) {
    pair_begin_with(p, CERT_EC, version);
}
static inline void pair_end(tls_pair *p) {
    side_end(&p->client);
    side_end(&p->server);
    ERR_clear_error();
}

/* Reads all there is. 0, or what ended it. */
static inline int side_drain(pair_side *s) {
    for (;;) {
        if (s->got_room - s->got_size < 20000) {
            s->got_room += 40000;
            s->got = realloc(s->got, s->got_room);
            CHECK(s->got != NULL);
        }
        ssize_t n = taut_tls_read(&s->tls, s->got + s->got_size, 20000);
        if (n <= 0)
            return (int)n;
        s->got_size += (size_t)n;
    }
}
/* One step of the handshake. 1: done, 0: more must come, else TAUT_E_TLS_FAILED. */
static inline int side_handshake(pair_side *s) {
    ERR_clear_error();
    int rc = SSL_do_handshake(s->ssl);
    if (rc == 1)
        return 1;
    return SSL_get_error(s->ssl, rc) == SSL_ERROR_WANT_READ ? 0 : TAUT_E_TLS_FAILED;
}
/* Feeds a copy and reads all; 0 or what ended it. */
static inline int side_feed(pair_side *s, const void *bytes, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    CHECK(copy != NULL);
    memcpy(copy, bytes, size);
    int rc = taut_tls_feed(&s->tls, copy, size);
    if (rc == 0)
        rc = side_drain(s);
    int settled = taut_tls_settle(&s->tls);
    memset(copy, 0xdb, size);
    free(copy);
    return rc < 0 ? rc : settled;
}
/* Takes what `s` has to send: malloc'd, its size in *size. */
static inline uint8_t *side_take(pair_side *s, size_t *size) {
    *size = taut_buf_size(&s->tls.out);
    uint8_t *wire = malloc(*size ? *size : 1);
    CHECK(wire != NULL);
    if (*size)
        memcpy(wire, taut_buf_bytes(&s->tls.out), *size);
    taut_buf_consume(&s->tls.out, *size);
    return wire;
}
/* All that `from` has to send, in pieces. 0 or what ended it. */
static inline int pair_carry(pair_side *from, pair_side *to, size_t piece) {
    size_t size;
    int rc = 0;
    uint8_t *wire = side_take(from, &size);
    for (size_t at = 0; at < size && rc == 0;) {
        size_t n = size - at < piece ? size - at : piece;
        rc = side_feed(to, wire + at, n);
        at += n;
    }
    free(wire);
    return rc;
}

/* Until neither has anything to send. 0 or what ended it. */
static inline int pair_settle(tls_pair *p, size_t piece) {
    int rc = 0;
    while (rc == 0 && taut_buf_size(&p->client.tls.out) + taut_buf_size(&p->server.tls.out) > 0) {
        rc = pair_carry(&p->client, &p->server, piece);
        if (rc == 0)
            rc = pair_carry(&p->server, &p->client, piece);
    }
    return rc;
}
/* The whole handshake, driven by reads once the client has begun it. */
static inline void pair_connect(tls_pair *p, size_t piece) {
    CHECK_EQ(side_handshake(&p->client), 0);
    CHECK_EQ(pair_settle(p, piece), 0);
    CHECK(SSL_is_init_finished(p->client.ssl) && SSL_is_init_finished(p->server.ssl));
    CHECK_EQ(p->client.got_size + p->server.got_size, 0);
}

#endif
