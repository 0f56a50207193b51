/* Reading our own memory at addresses that may be stale: a bad address is an error, never a crash.
 * For the watchdog's stack walk. A taut_peek belongs to one thread and lives for one walk; it
 * takes no lock and allocates nothing. */
#ifndef TAUT_IO_PEEK_H
#define TAUT_IO_PEEK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/assert.h"

enum taut_peek_mode {
    TAUT_PEEK_NONE = 0,     /* nothing works here */
    TAUT_PEEK_VM = 1,       /* process_vm_readv on our own pid */
    TAUT_PEEK_PROC_MEM = 2, /* pread of /proc/self/mem */
    TAUT_PEEK_PIPE = 3,     /* through a pipe: write(2) says EFAULT */
    TAUT_PEEK_DIRECT = 4,   /* plainly: taut_peek_begin_direct */
};

/* Whole pages that were read, for a reader that looks at many small things close together and does
 * not mind that they are of the moment when the first of them was read. Zeroed by the caller. */
#define TAUT_PEEK_PAGES 64
#define TAUT_PEEK_PAGE_SIZE 4096
typedef struct {
    uintptr_t at[TAUT_PEEK_PAGES]; /* 0: none */
    char bytes[TAUT_PEEK_PAGES][TAUT_PEEK_PAGE_SIZE];
} taut_peek_pages;

typedef struct {
    enum taut_peek_mode mode;
    taut_peek_pages *pages; /* may be set after begin; NULL: each read is a look at the memory */
    pid_t pid;
    int fds[2]; /* open between begin and end only, -1 otherwise: the program may close any fd */
} taut_peek;

/* Finds the first way from `first` on that the kernel (or a seccomp filter) permits.
 * 0, or TAUT_E_UNSUPPORTED when none does. Always followed by taut_peek_end. */
int taut_peek_begin(taut_peek *p, enum taut_peek_mode first) TAUT_MUST_USE;
/* For a reader that knows all of its addresses to be good: a bad one is a crash. */
void taut_peek_begin_direct(taut_peek *p);
void taut_peek_end(taut_peek *p);
/* Copies `size` bytes from `from`. 0, or -EFAULT when they are not all readable. */
int taut_peek_read(taut_peek *p, void *to, const void *from, size_t size) TAUT_MUST_USE;

#endif
