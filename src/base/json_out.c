#include "base/json_out.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void put(taut_json_out *w, const void *bytes, size_t size) {
    if (w->err == 0)
        w->err = taut_buf_append(w->to, bytes, size);
}

static void value_begins(taut_json_out *w) {
    if (w->comma)
        put(w, ",", 1);
    w->comma = 1;
}

void taut_json_out_init(taut_json_out *w, taut_buf *to) {
    *w = (taut_json_out){.to = to};
}

int taut_json_out_end(taut_json_out *w) {
    return w->err;
}

void taut_json_out_open(taut_json_out *w, char open) {
    value_begins(w);
    put(w, &open, 1);
    w->comma = 0;
}

void taut_json_out_close(taut_json_out *w, char close) {
    put(w, &close, 1);
    w->comma = 1;
}

/* The length of the UTF-8 sequence (RFC 3629, section 4) at `s`, 0 when there is none. */
static size_t sequence_size(const unsigned char *s, size_t left) {
    unsigned char low = 0x80, high = 0xbf;
    size_t size = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (size == 0 || s[0] > 0xf4 || size > left)
        return 0;
    if (s[0] == 0xe0 || s[0] == 0xf0)
        low = s[0] == 0xe0 ? 0xa0 : 0x90; /* shorter forms exist */
    if (s[0] == 0xed || s[0] == 0xf4)
        high = s[0] == 0xed ? 0x9f : 0x8f; /* surrogates; beyond U+10FFFF */
    for (size_t i = 1; i < size; i++) {
        if (s[i] < low || s[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return size;
}

static void put_escape(taut_json_out *w, unsigned char c) {
    char text[8];
    const char *short_form = c == '"'    ? "\\\""
                             : c == '\\' ? "\\\\"
                             : c == '\n' ? "\\n"
                             : c == '\t' ? "\\t"
                                         : NULL;
    if (short_form == NULL) {
        snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        short_form = text;
    }
    put(w, short_form, strlen(short_form));
}

static int is_escaped(unsigned char c) {
    return c < 0x20 || c == '"' || c == '\\' || c == 0x7f;
}

static void put_string(taut_json_out *w, const char *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    size_t plain = 0, i = 0; /* what is plain from here on has not been written */
    put(w, "\"", 1);
    while (i < size) {
        size_t good = sequence_size(s + i, size - i);
        if (good > 0 && !is_escaped(s[i])) {
            i += good;
            continue;
        }
        put(w, s + plain, i - plain);
        if (good > 0)
            put_escape(w, s[i]);
        else
            put(w, "\xef\xbf\xbd", 3);
        plain = ++i;
    }
    put(w, s + plain, size - plain);
    put(w, "\"", 1);
}

void taut_json_out_key(taut_json_out *w, const char *name) {
    value_begins(w);
    put_string(w, name, strlen(name));
    put(w, ":", 1);
    w->comma = 0;
}

void taut_json_out_bytes(taut_json_out *w, const char *text, size_t size) {
    value_begins(w);
    put_string(w, text, size);
}

void taut_json_out_text(taut_json_out *w, const char *text) {
    taut_json_out_bytes(w, text, strlen(text));
}

static void put_number(taut_json_out *w, const char *digits) {
    value_begins(w);
    put(w, digits, strlen(digits));
}

void taut_json_out_u64(taut_json_out *w, uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    put_number(w, text);
}

void taut_json_out_i64(taut_json_out *w, int64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    put_number(w, text);
}

void taut_json_out_seconds(taut_json_out *w, uint64_t ns) {
    char text[40];
    int size = snprintf(text, sizeof text, "%" PRIu64 ".%09u", ns / UINT64_C(1000000000),
                        (unsigned)(ns % UINT64_C(1000000000)));
    while (size > 1 && text[size - 1] == '0' && text[size - 2] != '.')
        text[--size] = '\0';
    put_number(w, text);
}

void taut_json_out_bool(taut_json_out *w, int value) {
    put_number(w, value ? "true" : "false");
}

void taut_json_out_null(taut_json_out *w) {
    put_number(w, "null");
}
