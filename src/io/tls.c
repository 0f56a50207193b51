#include "io/tls.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"

/* A BIO's callbacks are told the BIO alone, and it takes a function of its own libssl to find our
 * struct in it. */
static const taut_tls_api *the_api;

static size_t take(taut_tls *t, void *to, size_t room) {
    size_t held = taut_buf_size(&t->held), size;
    if (held > 0) {
        size = held < room ? held : room;
        memcpy(to, taut_buf_bytes(&t->held), size);
        taut_buf_consume(&t->held, size);
        return size;
    }
    size = t->in_size < room ? t->in_size : room;
    if (size > 0) {
        memcpy(to, t->in, size);
        t->in += size;
        t->in_size -= size;
    }
    return size;
}

static int bio_read(void *bio, char *to, int room) {
    taut_tls *t = the_api->BIO_get_data(bio);
    the_api->BIO_clear_flags(bio, TAUT_BIO_FLAGS_ALL);
    if (t == NULL || room <= 0)
        return -1;
    size_t size = take(t, to, (size_t)room);
    if (size > 0)
        return (int)size;
    the_api->BIO_set_flags(bio, TAUT_BIO_FLAG_READ | TAUT_BIO_FLAG_SHOULD_RETRY);
    return -1;
}

static int bio_write(void *bio, const char *from, int size) {
    taut_tls *t = the_api->BIO_get_data(bio);
    the_api->BIO_clear_flags(bio, TAUT_BIO_FLAGS_ALL);
    if (t == NULL || size < 0)
        return -1;
    if (taut_buf_append(&t->out, from, (size_t)size) < 0) {
        t->out_failed = 1;
        return -1;
    }
    return size;
}

static long bio_ctrl(void *bio, int command, long number, void *pointer) {
    (void)bio;
    (void)number;
    (void)pointer;
    return command == TAUT_BIO_CTRL_FLUSH; /* everything else: not known, or nothing to say */
}

int taut_tls_api_init(taut_tls_api *api) {
    int index = api->BIO_get_new_index();
    void *method = index < 0 ? NULL : api->BIO_meth_new(index | TAUT_BIO_TYPE_SOURCE_SINK, "taut");
    if (method == NULL)
        return -ENOMEM;
    if (!api->BIO_meth_set_read(method, bio_read) || !api->BIO_meth_set_write(method, bio_write) ||
        !api->BIO_meth_set_ctrl(method, bio_ctrl)) {
        api->BIO_meth_free(method);
        return -ENOMEM;
    }
    api->bio_method = method;
    the_api = api;
    return 0;
}

int taut_tls_begin(taut_tls *t, const taut_tls_api *api, void *ssl) {
    void *bio = api->BIO_new(api->bio_method);
    if (bio == NULL)
        return -ENOMEM;
    *t = (taut_tls){.api = api, .ssl = ssl, .bio = bio};
    taut_buf_init(&t->held);
    taut_buf_init(&t->out);
    api->BIO_set_data(bio, t);
    api->BIO_set_init(bio, 1);
    api->SSL_set_bio(ssl, bio, bio); /* takes our only reference, drops the BIOs it had */
    return 0;
}

void taut_tls_end(taut_tls *t) {
    if (t->bio == NULL)
        return;
    t->api->BIO_set_data(t->bio, NULL);
    taut_buf_free(&t->held);
    taut_buf_free(&t->out);
    *t = (taut_tls){0};
}

int taut_tls_feed(taut_tls *t, const uint8_t *bytes, size_t size) {
    if (taut_tls_held_size(t) > 0) {
        /* Room for both first: to keep one without the other would leave a gap. */
        if (taut_buf_reserve(&t->held, t->in_size + size) == NULL)
            return -ENOMEM;
        int rc = taut_tls_settle(t);
        return rc < 0 ? rc : taut_buf_append(&t->held, bytes, size);
    }
    t->in = bytes;
    t->in_size = size;
    return 0;
}

int taut_tls_settle(taut_tls *t) {
    if (t->in_size == 0 && taut_buf_size(&t->held) == 0 && t->held.data != NULL)
        taut_buf_free(&t->held); /* an idle connection keeps no buffer */
    int rc = taut_buf_append(&t->held, t->in, t->in_size);
    t->in = NULL;
    t->in_size = 0;
    return rc;
}

int taut_tls_readable(const taut_tls *t) {
    return taut_tls_held_size(t) > 0 || t->api->SSL_has_pending(t->ssl);
}

ssize_t taut_tls_read(taut_tls *t, void *to, size_t room) {
    size_t done = 0;
    if (t->read_end || room == 0)
        return t->read_end;
    t->api->ERR_clear_error();
    int rc = t->api->SSL_read_ex(t->ssl, to, room, &done);
    if (rc > 0)
        return (ssize_t)done;
    switch (t->api->SSL_get_error(t->ssl, rc)) {
    case TAUT_SSL_ERROR_WANT_READ:
    case TAUT_SSL_ERROR_WANT_WRITE:
        return 0;
    case TAUT_SSL_ERROR_ZERO_RETURN:
        t->read_end = TAUT_E_TLS_CLOSED;
        break;
    default:
        t->read_end = t->out_failed ? -ENOMEM : TAUT_E_TLS_FAILED;
    }
    /* Remembered: asked again after a fatal alert, OpenSSL would call it a close_notify. */
    return t->read_end;
}

ssize_t taut_tls_write(taut_tls *t, const void *from, size_t size) {
    size_t done = 0;
    if (size == 0)
        return 0;
    if (t->out_failed)
        return -ENOMEM; /* OpenSSL would send the old bytes in the place of these */
    t->api->ERR_clear_error();
    int rc = t->api->SSL_write_ex(t->ssl, from, size, &done);
    if (rc > 0)
        return (ssize_t)done;
    if (t->out_failed)
        return -ENOMEM;
    switch (t->api->SSL_get_error(t->ssl, rc)) {
    case TAUT_SSL_ERROR_WANT_READ:
    case TAUT_SSL_ERROR_WANT_WRITE:
        return 0;
    default:
        return TAUT_E_TLS_FAILED;
    }
}
