#include "io/peek.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "base/err.h"

static int read_vm(const taut_peek *p, void *to, const void *from, size_t size) {
    struct iovec local = {.iov_base = to, .iov_len = size};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)from, .iov_len = size};
    ssize_t n = process_vm_readv(p->pid, &local, 1, &remote, 1, 0);
    return n >= 0 && (size_t)n == size ? 0 : -EFAULT;
}

static int read_proc_mem(const taut_peek *p, void *to, const void *from, size_t size) {
    ssize_t n = pread(p->fds[0], to, size, (off_t)(uintptr_t)from);
    return n >= 0 && (size_t)n == size ? 0 : -EFAULT;
}

/* Writes of up to PIPE_BUF bytes to an empty pipe never block; a partial one means that a page in
 * the middle is missing, and is drained so that the pipe is empty for the next read. The bare
 * system call: a sanitizer's write() refuses what nobody may read now, such as a frame that was
 * left. */
static int read_pipe(const taut_peek *p, void *to, const void *from, size_t size) {
    size_t done = 0;
    while (done < size) {
        size_t part = size - done < PIPE_BUF ? size - done : PIPE_BUF;
        ssize_t in = syscall(SYS_write, p->fds[1], (const char *)from + done, part);
        if (in <= 0)
            return -EFAULT;
        ssize_t out = read(p->fds[0], (char *)to + done, (size_t)in);
        if (out != in || (size_t)in != part)
            return -EFAULT;
        done += part;
    }
    return 0;
}

static int read_now(taut_peek *p, void *to, const void *from, size_t size) {
    switch (p->mode) {
    case TAUT_PEEK_VM:
        return read_vm(p, to, from, size);
    case TAUT_PEEK_PROC_MEM:
        return read_proc_mem(p, to, from, size);
    case TAUT_PEEK_PIPE:
        return read_pipe(p, to, from, size);
    case TAUT_PEEK_DIRECT:
        memcpy(to, from, size);
        return 0;
    case TAUT_PEEK_NONE:
        break;
    }
    return -EFAULT;
}

/* A page that cannot be read as a whole is of a size unknown here: then without it. */
static int read_from_page(taut_peek *p, void *to, uintptr_t from, size_t size) {
    uintptr_t page = from & ~(uintptr_t)(TAUT_PEEK_PAGE_SIZE - 1);
    size_t slot = page / TAUT_PEEK_PAGE_SIZE % TAUT_PEEK_PAGES;
    if (p->pages->at[slot] != page) {
        p->pages->at[slot] = 0;
        if (read_now(p, p->pages->bytes[slot], (const void *)page, TAUT_PEEK_PAGE_SIZE) < 0)
            return read_now(p, to, (const void *)from, size);
        p->pages->at[slot] = page;
    }
    memcpy(to, p->pages->bytes[slot] + (from - page), size);
    return 0;
}

int taut_peek_read(taut_peek *p, void *to, const void *from, size_t size) {
    uintptr_t at = (uintptr_t)from;
    if (p->pages == NULL || size > TAUT_PEEK_PAGE_SIZE)
        return read_now(p, to, from, size);
    size_t first = TAUT_PEEK_PAGE_SIZE - at % TAUT_PEEK_PAGE_SIZE;
    if (first > size)
        first = size;
    if (read_from_page(p, to, at, first) < 0)
        return -EFAULT;
    return first == size ? 0 : read_from_page(p, (char *)to + first, at + first, size - first);
}

static int try_mode(taut_peek *p, enum taut_peek_mode mode) {
    static const uint64_t probe = UINT64_C(0x7461757470656565);
    uint64_t got = 0;
    p->mode = mode;
    if (mode == TAUT_PEEK_PROC_MEM)
        p->fds[0] = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (mode == TAUT_PEEK_PIPE && pipe2(p->fds, O_CLOEXEC | O_NONBLOCK) < 0)
        p->fds[0] = p->fds[1] = -1;
    if (mode != TAUT_PEEK_VM && p->fds[0] < 0)
        return 0;
    return taut_peek_read(p, &got, &probe, sizeof got) == 0 && got == probe;
}

int taut_peek_begin(taut_peek *p, enum taut_peek_mode first) {
    *p = (taut_peek){.pid = getpid(), .fds = {-1, -1}};
    for (int mode = first; mode <= TAUT_PEEK_PIPE; mode++) {
        if (mode != TAUT_PEEK_NONE && try_mode(p, (enum taut_peek_mode)mode))
            return 0;
        taut_peek_end(p);
    }
    return TAUT_E_UNSUPPORTED;
}

void taut_peek_begin_direct(taut_peek *p) {
    *p = (taut_peek){.mode = TAUT_PEEK_DIRECT, .fds = {-1, -1}};
}

void taut_peek_end(taut_peek *p) {
    for (int i = 0; i < 2; i++)
        if (p->fds[i] >= 0) {
            close(p->fds[i]);
            p->fds[i] = -1;
        }
    p->mode = TAUT_PEEK_NONE;
    p->pages = NULL;
}
