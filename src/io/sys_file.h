/* The plain build of io/sys.h: files. Include io/sys.h instead. */
#ifndef TAUT_IO_SYS_FILE_H
#define TAUT_IO_SYS_FILE_H

#include <sys/sendfile.h>
#include <sys/stat.h>
#include "io/sys_pipe.h"

/* It takes no flags, so not MSG_NOSIGNAL either. */
static inline ssize_t taut_sys_sendfile(int fd, int file, uint64_t offset, size_t size) {
    off_t at = (off_t)offset;
    taut_sys_pipe_mask mask;
    taut_sys_pipe_mask_begin(&mask, taut_sys_sigpipe_ends());
    ssize_t n = TAUT_SYS_RC(sendfile(fd, file, &at, size));
    taut_sys_pipe_mask_end(&mask, n);
    return n;
}
static inline ssize_t taut_sys_file_read(int fd, void *data, size_t size, uint64_t offset) {
    struct iovec one = {.iov_base = data, .iov_len = size};
    return TAUT_SYS_RC(preadv2(fd, &one, 1, (off_t)offset, RWF_NOWAIT));
}
static inline int taut_sys_file_in_memory(int fd, uint64_t offset) {
    char byte;
    return taut_sys_file_read(fd, &byte, 1, offset) != -EAGAIN;
}
static inline int64_t taut_sys_file_size(int fd) {
    struct stat st;
    int rc = TAUT_SYS_RC(fstat(fd, &st));
    return rc < 0 ? rc : st.st_size;
}
static inline int taut_sys_file_seek(int fd, uint64_t offset) {
    off_t rc = TAUT_SYS_RC(lseek(fd, (off_t)offset, SEEK_SET));
    return rc < 0 ? (int)rc : 0;
}

#endif
