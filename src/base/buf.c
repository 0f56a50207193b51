#include "base/buf.h"

#include <errno.h>
#include <string.h>
#include "base/mem.h"

#define CAPACITY_MIN 256
#define KEEP_MAX (64 * 1024)

void taut_buf_init(taut_buf *b) {
    *b = (taut_buf){0};
}

void taut_buf_free(taut_buf *b) {
    taut_free(b->data);
    *b = (taut_buf){0};
}

static int grow(taut_buf *b, size_t needed) {
    size_t capacity = b->capacity ? b->capacity : CAPACITY_MIN;
    while (capacity < needed)
        capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    uint8_t *data = taut_realloc_array(b->data, capacity, 1);
    if (!data)
        return -ENOMEM;
    b->data = data;
    b->capacity = capacity;
    return 0;
}

uint8_t *taut_buf_reserve(taut_buf *b, size_t size) {
    size_t held = taut_buf_size(b), needed;
    if (b->data && size <= b->capacity - b->end)
        return b->data + b->end;
    if (__builtin_add_overflow(held, size, &needed))
        return NULL;
    /* Moving the bytes down pays for itself only when the consumed part is at least as long. */
    if (b->start >= held && b->start > 0) {
        memmove(b->data, b->data + b->start, held);
        b->start = 0;
        b->end = held;
    }
    if (__builtin_add_overflow(b->end, size, &needed))
        return NULL;
    if ((!b->data || needed > b->capacity) && grow(b, needed) < 0)
        return NULL;
    return b->data + b->end;
}

void taut_buf_commit(taut_buf *b, size_t size) {
    taut_assert(size <= b->capacity - b->end);
    b->end += size;
}

int taut_buf_append(taut_buf *b, const void *bytes, size_t size) {
    if (size == 0)
        return 0;
    uint8_t *room = taut_buf_reserve(b, size);
    if (!room)
        return -ENOMEM;
    memcpy(room, bytes, size);
    taut_buf_commit(b, size);
    return 0;
}

void taut_buf_consume(taut_buf *b, size_t size) {
    taut_assert(size <= taut_buf_size(b));
    b->start += size;
    if (b->start < b->end)
        return;
    b->start = b->end = 0;
    if (b->capacity > KEEP_MAX)
        taut_buf_free(b);
}
