/* Part of io/sys_linux.h. What a loop calls all the time, past glibc's functions of the same names:
 * those are cancellation points, and in a process with several threads pay two atomic operations
 * for that. Any thread; errors by errno, as theirs. */
#ifndef TAUT_IO_SYS_DIRECT_H
#define TAUT_IO_SYS_DIRECT_H

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(SYS_recvfrom) && defined(SYS_sendto) && defined(SYS_sendmsg)
#define taut_direct_recv(fd, data, size, flags)                                                    \
    syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL)
#define taut_direct_send(fd, data, size, flags) syscall(SYS_sendto, fd, data, size, flags, NULL, 0)
#define taut_direct_sendmsg(fd, msg, flags) syscall(SYS_sendmsg, fd, msg, flags)
#else
#define taut_direct_recv recv
#define taut_direct_send send
#define taut_direct_sendmsg sendmsg
#endif
#ifdef SYS_epoll_wait
#define taut_direct_epoll_wait(epfd, events, events_max, ms)                                       \
    (int)syscall(SYS_epoll_wait, epfd, events, events_max, ms)
#else
#define taut_direct_epoll_wait epoll_wait
#endif

#endif
