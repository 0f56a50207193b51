#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- echo: the answer is the request, byte for byte ---- */

static void echo_begin(taut_load_conn *c) {
    c->received = 0;
}

static taut_load_state echo_feed(taut_load_conn *c, const char *data, size_t size) {
    if (size > c->request->size - c->received ||
        memcmp(data, c->request->bytes + c->received, size) != 0) {
        return TAUT_LOAD_BROKEN;
    }
    c->received += size;
    c->ok = true;
    c->closing = false;
    return c->received == c->request->size ? TAUT_LOAD_DONE : TAUT_LOAD_MORE;
}

const taut_load_proto taut_load_echo = {echo_begin, echo_feed};

/* ---- http: HTTP/1.1 answers with a Content-Length, which is all that the measured services
 * send; anything else is BROKEN, so that it shows instead of flattering a figure ---- */

static void http_begin(taut_load_conn *c) {
    c->received = c->body_size = c->head_len = 0;
    c->head_done = false;
}

/* The value of a header in the complete, NUL-terminated head, or NULL. */
static const char *header_value(const char *head, const char *name) {
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r';
         line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':') {
            const char *value = line + 3 + len;
            return value + strspn(value, " \t");
        }
    }
    return NULL;
}

static taut_load_state parse_head(taut_load_conn *c) {
    if (strncmp(c->head, "HTTP/1.1 ", 9) != 0) {
        return TAUT_LOAD_BROKEN;
    }
    int status = atoi(c->head + 9);
    c->ok = status >= 200 && status < 300;
    const char *length = header_value(c->head, "content-length");
    if (!length) {
        return TAUT_LOAD_BROKEN;
    }
    c->body_size = strtoul(length, NULL, 10);
    const char *connection = header_value(c->head, "connection");
    c->closing = connection && strncasecmp(connection, "close", 5) == 0;
    c->head_done = true;
    return TAUT_LOAD_MORE;
}

/* Takes head bytes up to and including the empty line; *used says how many. */
static taut_load_state feed_head(taut_load_conn *c, const char *data, size_t size, size_t *used) {
    size_t room = TAUT_LOAD_HEAD_MAX - 1 - c->head_len;
    size_t take = size < room ? size : room;
    size_t before = c->head_len;
    memcpy(c->head + before, data, take);
    c->head_len += take;
    c->head[c->head_len] = '\0';
    /* The end mark may have begun in the previous piece. */
    char *end = strstr(c->head + (before > 3 ? before - 3 : 0), "\r\n\r\n");
    if (!end) {
        *used = take;
        return take < size ? TAUT_LOAD_BROKEN : TAUT_LOAD_MORE;
    }
    size_t head_size = (size_t)(end + 4 - c->head);
    c->head[head_size] = '\0';
    c->head_len = head_size;
    *used = head_size - before;
    return parse_head(c);
}

static taut_load_state http_feed(taut_load_conn *c, const char *data, size_t size) {
    if (!c->head_done) {
        size_t used;
        taut_load_state state = feed_head(c, data, size, &used);
        if (state != TAUT_LOAD_MORE || !c->head_done) {
            return state;
        }
        size -= used;
    }
    if (size > c->body_size - c->received) {
        return TAUT_LOAD_BROKEN;
    }
    c->received += size;
    return c->received == c->body_size ? TAUT_LOAD_DONE : TAUT_LOAD_MORE;
}

const taut_load_proto taut_load_http = {http_begin, http_feed};
