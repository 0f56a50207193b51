/* See addr.h. */
#include "binding/addr.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>

int taut_addr_keep(taut_addr *a, const struct sockaddr *sa, socklen_t size) {
    a->size = 0;
    if (size > TAUT_ADDR_SIZE_MAX || (sa->sa_family != AF_INET && sa->sa_family != AF_INET6))
        return 0;
    memcpy(a->bytes, sa, size);
    a->size = size;
    return 1;
}

static PyObject *unix_object(const struct sockaddr *sa, socklen_t size) {
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    const char *path = (const char *)sa + offset;
    size_t path_size = size > offset ? size - offset : 0;
    if (path_size > sizeof(((struct sockaddr_un *)0)->sun_path))
        path_size = sizeof(((struct sockaddr_un *)0)->sun_path);
    if (path_size > 0 && path[0] == '\0')
        return PyBytes_FromStringAndSize(path, (Py_ssize_t)path_size);
    return PyUnicode_DecodeFSDefaultAndSize(path, (Py_ssize_t)strnlen(path, path_size));
}

/* Sixteen bytes of room; the length. */
static Py_ssize_t ipv4_text(const uint8_t octets[4], char *text) {
    char *at = text;
    for (int i = 0; i < 4; i++) {
        unsigned n = octets[i];
        if (n >= 100)
            *at++ = (char)('0' + n / 100);
        if (n >= 10)
            *at++ = (char)('0' + n / 10 % 10);
        *at++ = (char)('0' + n % 10);
        *at++ = '.';
    }
    return at - text - 1;
}

/* By hand: each datagram pays for it, and the general way costs several times as much. */
static PyObject *ipv4_object(const struct sockaddr_in *v4) {
    char text[16];
    Py_ssize_t size = ipv4_text((const uint8_t *)&v4->sin_addr, text);
    PyObject *host = PyUnicode_New(size, 127);
    PyObject *port = host == NULL ? NULL : PyLong_FromLong(ntohs(v4->sin_port));
    PyObject *pair = port == NULL ? NULL : PyTuple_New(2);
    if (pair == NULL) {
        Py_XDECREF(host);
        Py_XDECREF(port);
        return NULL;
    }
    memcpy(PyUnicode_1BYTE_DATA(host), text, (size_t)size);
    PyTuple_SET_ITEM(pair, 0, host);
    PyTuple_SET_ITEM(pair, 1, port);
    return pair;
}

PyObject *taut_addr_object(const struct sockaddr *sa, socklen_t size) {
    char host[INET6_ADDRSTRLEN];
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    if (size < sizeof sa->sa_family)
        Py_RETURN_NONE;
    switch (sa->sa_family) {
    case AF_INET:
        memset(&v4, 0, sizeof v4);
        memcpy(&v4, sa, size < sizeof v4 ? size : sizeof v4);
        return ipv4_object(&v4);
    case AF_INET6:
        memset(&v6, 0, sizeof v6);
        memcpy(&v6, sa, size < sizeof v6 ? size : sizeof v6);
        inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, (int)ntohs(v6.sin6_port),
                             (unsigned int)ntohl(v6.sin6_flowinfo), (unsigned int)v6.sin6_scope_id);
    case AF_UNIX:
        return unix_object(sa, size);
    default:
        Py_RETURN_NONE;
    }
}

PyObject *taut_addr_kept_object(const taut_addr *a) {
    struct sockaddr_storage ss;
    if (a->size == 0)
        Py_RETURN_NONE;
    memcpy(&ss, a->bytes, a->size);
    return taut_addr_object((const struct sockaddr *)&ss, a->size);
}

static int number(PyObject *tuple, Py_ssize_t i, unsigned long max, unsigned long *value) {
    *value = 0;
    if (i >= PyTuple_GET_SIZE(tuple))
        return 1;
    if (!PyLong_CheckExact(PyTuple_GET_ITEM(tuple, i)))
        return 0;
    *value = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(tuple, i));
    if (*value == (unsigned long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return *value <= max;
}

int taut_addr_parse(PyObject *address, int family, struct sockaddr_storage *out, socklen_t *size) {
    unsigned long port, flow, scope;
    if (!PyTuple_CheckExact(address) || PyTuple_GET_SIZE(address) < 2 ||
        PyTuple_GET_SIZE(address) > (family == AF_INET6 ? 4 : 2) ||
        !PyUnicode_CheckExact(PyTuple_GET_ITEM(address, 0)) ||
        !PyUnicode_IS_COMPACT_ASCII(PyTuple_GET_ITEM(address, 0)) ||
        !number(address, 1, 0xffff, &port) || !number(address, 2, 0xfffff, &flow) ||
        !number(address, 3, UINT32_MAX, &scope))
        return 0;
    const char *host = (const char *)PyUnicode_1BYTE_DATA(PyTuple_GET_ITEM(address, 0));
    if (strlen(host) != (size_t)PyUnicode_GET_LENGTH(PyTuple_GET_ITEM(address, 0)))
        return 0;
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *v6);
    out->ss_family = (sa_family_t)family;
    if (family == AF_INET && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_port = htons((uint16_t)port);
        *size = sizeof *v4;
        return 1;
    }
    if (family == AF_INET6 && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_port = htons((uint16_t)port);
        v6->sin6_flowinfo = htonl((uint32_t)flow);
        v6->sin6_scope_id = (uint32_t)scope;
        *size = sizeof *v6;
        return 1;
    }
    return 0;
}

int taut_addr_parse_unix(PyObject *path, struct sockaddr_storage *out, socklen_t *size) {
    struct sockaddr_un *un = (struct sockaddr_un *)out;
    PyObject *bytes = PyUnicode_Check(path) ? PyUnicode_EncodeFSDefault(path)
                      : PyBytes_Check(path) ? Py_NewRef(path)
                                            : NULL;
    if (bytes == NULL) {
        PyErr_Clear();
        return 0;
    }
    size_t length = (size_t)PyBytes_GET_SIZE(bytes);
    const char *name = PyBytes_AS_STRING(bytes);
    int fits = length > 0 && length <= sizeof un->sun_path - (name[0] != '\0');
    if (fits) {
        memset(un, 0, sizeof *un);
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, name, length);
        *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    }
    Py_DECREF(bytes);
    return fits;
}
