/* A growable run of bytes with a read position. The buffer owns its storage. One thread. */
#ifndef TAUT_BASE_BUF_H
#define TAUT_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>
#include "base/assert.h"

typedef struct {
    uint8_t *data;
    size_t start, end, capacity;
} taut_buf;

void taut_buf_init(taut_buf *b);
void taut_buf_free(taut_buf *b);
static inline size_t taut_buf_size(const taut_buf *b) {
    return b->end - b->start;
}
static inline const uint8_t *taut_buf_bytes(const taut_buf *b) {
    return b->data + b->start;
}
/* Room for `size` more bytes at the end: a pointer to it, or NULL when memory is out. */
uint8_t *taut_buf_reserve(taut_buf *b, size_t size) TAUT_MUST_USE;
/* Counts `size` bytes written into the reserved room. */
void taut_buf_commit(taut_buf *b, size_t size);
int taut_buf_append(taut_buf *b, const void *bytes, size_t size) TAUT_MUST_USE; /* 0 or -ENOMEM */
/* Drops everything and keeps the storage. */
static inline void taut_buf_clear(taut_buf *b) {
    b->start = b->end = 0;
}
/* Drops `size` bytes from the front (at most the size); storage of a drained burst is returned
 * to the allocator when it exceeds 64 KiB. */
void taut_buf_consume(taut_buf *b, size_t size);

#endif
