/* The functions of OpenSSL (1.1.1 or 3) that taut calls. It is not linked: whoever creates
 * connections has a libssl already, and its functions are the only ones that fit its objects, so
 * that they are looked up there by name. The numbers below are part of OpenSSL's stable ABI. */
#ifndef TAUT_IO_TLS_API_H
#define TAUT_IO_TLS_API_H

#include <stddef.h>
#include <stdint.h>

/* X(result, name, arguments): SSL *, BIO * and BIO_METHOD * are void * here. */
#define TAUT_TLS_FUNCTIONS(X)                                                                      \
    X(int, SSL_read_ex, (void *ssl, void *to, size_t room, size_t *done))                          \
    X(int, SSL_write_ex, (void *ssl, const void *from, size_t size, size_t *done))                 \
    X(int, SSL_get_error, (const void *ssl, int rc))                                               \
    X(int, SSL_pending, (const void *ssl))                                                         \
    X(int, SSL_has_pending, (const void *ssl))                                                     \
    X(void, SSL_set_bio, (void *ssl, void *rbio, void *wbio))                                      \
    X(void *, SSL_get_SSL_CTX, (const void *ssl))                                                  \
    X(void *, SSL_get_ex_data, (const void *ssl, int index))                                       \
    X(const void *, SSL_CTX_get_ssl_method, (const void *ctx))                                     \
    X(const void *, TLS_method, (void))                                                            \
    X(const void *, TLS_client_method, (void))                                                     \
    X(const void *, TLS_server_method, (void))                                                     \
    X(void, ERR_clear_error, (void))                                                               \
    X(int, BIO_get_new_index, (void))                                                              \
    X(void *, BIO_meth_new, (int type, const char *name))                                          \
    X(void, BIO_meth_free, (void *method))                                                         \
    X(int, BIO_meth_set_write, (void *method, int (*fn)(void *, const char *, int)))               \
    X(int, BIO_meth_set_read, (void *method, int (*fn)(void *, char *, int)))                      \
    X(int, BIO_meth_set_ctrl, (void *method, long (*fn)(void *, int, long, void *)))               \
    X(void *, BIO_new, (const void *method))                                                       \
    X(int, BIO_free, (void *bio))                                                                  \
    X(int, BIO_up_ref, (void *bio))                                                                \
    X(void, BIO_set_init, (void *bio, int init))                                                   \
    X(void, BIO_set_data, (void *bio, void *data))                                                 \
    X(void *, BIO_get_data, (void *bio))                                                           \
    X(void, BIO_set_flags, (void *bio, int flags))                                                 \
    X(void, BIO_clear_flags, (void *bio, int flags))

typedef struct {
#define TAUT_TLS_POINTER(result, name, arguments) result(*name) arguments;
    TAUT_TLS_FUNCTIONS(TAUT_TLS_POINTER)
#undef TAUT_TLS_POINTER
    void *bio_method; /* taut_tls_api_init; lives as long as the process */
} taut_tls_api;

enum {
    TAUT_SSL_ERROR_WANT_READ = 2,
    TAUT_SSL_ERROR_WANT_WRITE = 3,
    TAUT_SSL_ERROR_ZERO_RETURN = 6,
    TAUT_BIO_TYPE_SOURCE_SINK = 0x0400,
    TAUT_BIO_CTRL_FLUSH = 11,
    TAUT_BIO_FLAG_READ = 0x01,
    TAUT_BIO_FLAG_SHOULD_RETRY = 0x08,
    TAUT_BIO_FLAGS_ALL = 0x0f, /* those two, WRITE and IO_SPECIAL */
};

#endif
