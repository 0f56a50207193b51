/* Intrusive doubly linked circular list. A head and a node are the same struct; the list owns
 * nothing. An unlinked node points at itself, so unlinking twice is harmless. */
#ifndef TAUT_BASE_LIST_H
#define TAUT_BASE_LIST_H

#include <stddef.h>

typedef struct taut_list {
    struct taut_list *next, *prev;
} taut_list;

#define TAUT_CONTAINER(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline void taut_list_init(taut_list *l) {
    l->next = l->prev = l;
}
static inline int taut_list_empty(const taut_list *l) {
    return l->next == l;
}
static inline void taut_list_append(taut_list *head, taut_list *n) {
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}
static inline void taut_list_unlink(taut_list *n) {
    n->prev->next = n->next;
    n->next->prev = n->prev;
    taut_list_init(n);
}
/* Moves everything from `from` to the empty head `to`; `from` is empty afterwards. */
static inline void taut_list_take(taut_list *to, taut_list *from) {
    taut_list_init(to);
    if (!taut_list_empty(from)) {
        *to = *from;
        to->next->prev = to;
        to->prev->next = to;
        taut_list_init(from);
    }
}

#endif
