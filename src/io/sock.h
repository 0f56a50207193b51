/* Single calls on a socket for code above src/io, which makes no system calls of its own.
 * None waits, whatever mode the socket is in. Negative errno on failure. Any thread. */
#ifndef TAUT_IO_SOCK_H
#define TAUT_IO_SOCK_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include "base/assert.h"

ssize_t taut_sock_recv(int fd, void *data, size_t size);
ssize_t taut_sock_send(int fd, const void *data, size_t size); /* never raises SIGPIPE */
/* Reads from `offset` without waiting for the disk: -EAGAIN when it would have to, another error
 * also where the kernel cannot tell; 0: the end. */
ssize_t taut_sock_file_read(int file, void *data, size_t size, uint64_t offset);
/* A regular file's size in bytes (what fstat(2) says); negative error. */
int64_t taut_sock_file_size(int file);
/* Moves the file's position. 0 or negative error. */
int taut_sock_file_seek(int file, uint64_t offset);
/* *size: room at `addr` on entry, the address's size on return (larger than the room: cut). */
int taut_sock_name(int fd, struct sockaddr *addr, socklen_t *size) TAUT_MUST_USE;
int taut_sock_peer(int fd, struct sockaddr *addr, socklen_t *size) TAUT_MUST_USE;
/* AF_INET and so on; negative error. */
int taut_sock_family(int fd);
/* 0, -EINPROGRESS, or another negative error. */
int taut_sock_connect(int fd, const struct sockaddr *addr, socklen_t size);
/* TCP_NODELAY on; an error means that it is no TCP socket. Accepted sockets inherit it. */
int taut_sock_nodelay(int fd);
int taut_sock_error(int fd); /* SO_ERROR, which this clears: 0 or negative */
void taut_sock_close(int fd);

#endif
