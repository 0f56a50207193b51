/* JSON (RFC 8259) written into a growing buffer, member by member. The writer keeps no tree: it
 * knows only whether a comma is due, so the caller opens and closes what it writes. Text that is
 * not UTF-8 comes out with U+FFFD in the place of each bad byte. One thread.
 *
 * Errors stick: after the first failed allocation nothing is written any more, and
 * taut_json_out_end says so. */
#ifndef TAUT_BASE_JSON_OUT_H
#define TAUT_BASE_JSON_OUT_H

#include <stdint.h>
#include "base/buf.h"

typedef struct {
    taut_buf *to; /* the caller's; appended to */
    int comma;    /* the next member of the innermost array or object needs one */
    int err;      /* 0 or -ENOMEM */
} taut_json_out;

void taut_json_out_init(taut_json_out *w, taut_buf *to);
/* 0, or -ENOMEM: what is in the buffer is not whole. */
int taut_json_out_end(taut_json_out *w) TAUT_MUST_USE;

/* `open` is '{' or '[', `close` the other one. */
void taut_json_out_open(taut_json_out *w, char open);
void taut_json_out_close(taut_json_out *w, char close);
/* The name of an object's member; its value must follow. */
void taut_json_out_key(taut_json_out *w, const char *name);

void taut_json_out_text(taut_json_out *w, const char *text);
void taut_json_out_bytes(taut_json_out *w, const char *text, size_t size);
void taut_json_out_u64(taut_json_out *w, uint64_t value);
void taut_json_out_i64(taut_json_out *w, int64_t value);
/* Nanoseconds as seconds, with nine decimals at most: no binary fraction is involved. */
void taut_json_out_seconds(taut_json_out *w, uint64_t ns);
void taut_json_out_bool(taut_json_out *w, int value);
void taut_json_out_null(taut_json_out *w);

#endif
