/* The one seam between src/io and the kernel: every system call and clock read of src/io has a
 * taut_sys_* name here. Built plainly they are inline wrappers; built with -DTAUT_SIM they are
 * extern functions which a simulated kernel (tests/c/sim) supplies.
 * Errors come back as negative errno; nobody in src/io reads errno. Any thread. */
#ifndef TAUT_IO_SYS_H
#define TAUT_IO_SYS_H

#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef TAUT_SIM
#define TAUT_SYS_DECL extern
#else
#define TAUT_SYS_DECL static inline
#endif

TAUT_SYS_DECL uint64_t taut_sys_now_ns(void);
/* A cheap counter for bounding bursts (TSC, CNTVCT, or nanoseconds): monotonic per core, rate
 * unknown; the loop calibrates it against taut_sys_now_ns. */
TAUT_SYS_DECL uint64_t taut_sys_ticks(void);
TAUT_SYS_DECL int taut_sys_epoll_create(void);
TAUT_SYS_DECL int taut_sys_epoll_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data);
/* timeout_ns: 0 polls, UINT64_MAX waits for ever; otherwise never returns early without an event
 * or a signal. Uses epoll_pwait2 where the kernel has it, else rounds up to a millisecond. */
TAUT_SYS_DECL int taut_sys_epoll_wait(int epfd, struct epoll_event *events, int events_max,
                                      uint64_t timeout_ns);
TAUT_SYS_DECL int taut_sys_eventfd(void);    /* non-blocking, close-on-exec */
TAUT_SYS_DECL int taut_sys_pipe(int fds[2]); /* read end, write end; non-blocking, close-on-exec */
/* The file of `from` takes the number `to`, whose file is closed, and loses its own. */
TAUT_SYS_DECL int taut_sys_move(int from, int to);
TAUT_SYS_DECL ssize_t taut_sys_read(int fd, void *data, size_t size);
TAUT_SYS_DECL ssize_t taut_sys_write(int fd, const void *data, size_t size);
/* Whether SIGPIPE has the action that ends the process. */
TAUT_SYS_DECL int taut_sys_sigpipe_ends(void);
/* `guard`: a SIGPIPE is not raised. */
TAUT_SYS_DECL ssize_t taut_sys_writev(int fd, const struct iovec *iov, int count, int guard);
/* recv and send never wait, even on a blocking socket, and never raise SIGPIPE. */
TAUT_SYS_DECL ssize_t taut_sys_recv(int fd, void *data, size_t size);
TAUT_SYS_DECL ssize_t taut_sys_send(int fd, const void *data, size_t size);
TAUT_SYS_DECL ssize_t taut_sys_sendv(int fd, struct iovec *iov, int count); /* MSG_NOSIGNAL */
/* sendfile(2) from `offset`, which does not move the file's position. Never raises SIGPIPE; waits
 * for the disk, and for a socket that is in blocking mode. */
TAUT_SYS_DECL ssize_t taut_sys_sendfile(int fd, int file, uint64_t offset, size_t size);
/* Whether the byte at `offset` can be read without waiting for the disk; 1 also where the kernel
 * cannot tell. */
TAUT_SYS_DECL int taut_sys_file_in_memory(int fd, uint64_t offset);
/* preadv2(2) with RWF_NOWAIT: -EAGAIN instead of waiting for the disk. */
TAUT_SYS_DECL ssize_t taut_sys_file_read(int fd, void *data, size_t size, uint64_t offset);
TAUT_SYS_DECL int64_t taut_sys_file_size(int fd);              /* bytes; 0 for what has none */
TAUT_SYS_DECL int taut_sys_file_seek(int fd, uint64_t offset); /* from the start; 0 or error */
/* Datagrams, never waiting nor raising SIGPIPE. recvfrom: *size as for accept, 0 for a sender
 * without a name. sendto: `addr` NULL on a connected socket. recvmmsg and sendmmsg: how many of
 * `count`; what they fill in and take is struct mmsghdr's business (recvmmsg(2)). */
struct mmsghdr;
TAUT_SYS_DECL ssize_t taut_sys_recvfrom(int fd, void *data, size_t size, struct sockaddr *addr,
                                        socklen_t *addr_size);
TAUT_SYS_DECL ssize_t taut_sys_sendto(int fd, const void *data, size_t size,
                                      const struct sockaddr *addr, socklen_t addr_size);
TAUT_SYS_DECL int taut_sys_recvmmsg(int fd, struct mmsghdr *messages, int count);
TAUT_SYS_DECL int taut_sys_sendmmsg(int fd, struct mmsghdr *messages, int count);
/* Non-blocking, close-on-exec. *size: room at `peer` on entry, the address's size on return. */
TAUT_SYS_DECL int taut_sys_accept(int fd, struct sockaddr *peer, socklen_t *size);
TAUT_SYS_DECL int taut_sys_connect(int fd, const struct sockaddr *addr, socklen_t size);
TAUT_SYS_DECL int taut_sys_so_error(int fd); /* SO_ERROR as 0 or -errno */
TAUT_SYS_DECL int taut_sys_shutdown_write(int fd);
/* Like accept's `peer`. 0 or negative error. */
TAUT_SYS_DECL int taut_sys_sockname(int fd, struct sockaddr *addr, socklen_t *size);
TAUT_SYS_DECL int taut_sys_peername(int fd, struct sockaddr *addr, socklen_t *size);
TAUT_SYS_DECL int taut_sys_family(int fd);  /* AF_..., or negative error */
TAUT_SYS_DECL int taut_sys_nodelay(int fd); /* TCP_NODELAY on */
TAUT_SYS_DECL int taut_sys_close(int fd);   /* never retried: Linux has closed it on EINTR */

#ifndef TAUT_SIM
#include "io/sys_linux.h"
#include "io/sys_file.h"
#include "io/sys_pipe.h"
#endif

#endif
