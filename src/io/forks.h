/* How an object finds out that it was inherited: this process is a fork of the one that made it,
 * and shares the kernel's side of it (epoll instance, eventfd, sockets) with that one. */
#ifndef TAUT_IO_FORKS_H
#define TAUT_IO_FORKS_H

#include <stdint.h>

/* Moves by one in each forked child. Any thread; read it through taut_forks. */
extern uint32_t taut_forks_count;

/* To be called before anything is made that will ask. Idempotent; 0 or negative error. */
int taut_forks_init(void);

/* Kept by an object when it is made, and compared later. */
static inline uint32_t taut_forks(void) {
    return taut_forks_count;
}

/* Whether a thread of the parent, by its pthread_self(), is gone: fork() leaves only the one that
 * called it. For objects that were made before the last fork. */
int taut_forks_left_behind(unsigned long thread);

#endif
