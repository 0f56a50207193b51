/* Self-signed certificates and the contexts that use them, made once per process. */
#ifndef TAUT_TESTS_TLS_CERT_H
#define TAUT_TESTS_TLS_CERT_H

#include <openssl/ec.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include "check.h"

typedef enum { CERT_EC, CERT_RSA, CERT_KEYS } cert_key;

static inline EVP_PKEY *cert_new_key(cert_key kind) {
    EVP_PKEY *key = NULL;
    int is_rsa = kind == CERT_RSA;
    EVP_PKEY_CTX *maker = EVP_PKEY_CTX_new_id(is_rsa ? EVP_PKEY_RSA : EVP_PKEY_EC, NULL);
    CHECK(maker != NULL && EVP_PKEY_keygen_init(maker) == 1);
    if (is_rsa)
        CHECK(EVP_PKEY_CTX_set_rsa_keygen_bits(maker, 2048) == 1);
    else
        CHECK(EVP_PKEY_CTX_set_ec_paramgen_curve_nid(maker, NID_X9_62_prime256v1) == 1);
    CHECK(EVP_PKEY_keygen(maker, &key) == 1);
    EVP_PKEY_CTX_free(maker);
    return key;
}

static inline X509 *cert_new(EVP_PKEY *key) {
    X509 *cert = X509_new();
    CHECK(cert != NULL && X509_set_version(cert, 2) && X509_set_pubkey(cert, key));
    CHECK(ASN1_INTEGER_set(X509_get_serialNumber(cert), 1));
    CHECK(ASN1_TIME_set_string(X509_getm_notBefore(cert), "20200101000000Z"));
    CHECK(ASN1_TIME_set_string(X509_getm_notAfter(cert), "20990101000000Z"));
    X509_NAME *name = X509_get_subject_name(cert);
    CHECK(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const uint8_t *)"localhost", -1, -1,
                                     0));
    CHECK(X509_set_issuer_name(cert, name));
    CHECK(X509_sign(cert, key, EVP_sha256()) > 0);
    return cert;
}

static inline SSL_CTX *cert_server_ctx(cert_key kind) {
    static SSL_CTX *contexts[CERT_KEYS];
    SSL_CTX *ctx = contexts[kind];
    if (ctx != NULL)
        return ctx;
    contexts[kind] = ctx = SSL_CTX_new(TLS_server_method());
    CHECK(ctx != NULL);
    EVP_PKEY *key = cert_new_key(kind);
    X509 *cert = cert_new(key);
    CHECK(SSL_CTX_use_PrivateKey(ctx, key) == 1 && SSL_CTX_use_certificate(ctx, cert) == 1);
    X509_free(cert);
    EVP_PKEY_free(key);
    return ctx;
}

/* Trusts everybody. */
static inline SSL_CTX *cert_client_ctx(void) {
    static SSL_CTX *ctx;
    if (ctx == NULL)
        ctx = SSL_CTX_new(TLS_client_method());
    CHECK(ctx != NULL);
    return ctx;
}

#endif
