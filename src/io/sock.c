/* See sock.h. */
#include "io/sock.h"
#include "io/sys.h"

ssize_t taut_sock_recv(int fd, void *data, size_t size) {
    return taut_sys_recv(fd, data, size);
}

ssize_t taut_sock_send(int fd, const void *data, size_t size) {
    return taut_sys_send(fd, data, size);
}

ssize_t taut_sock_file_read(int file, void *data, size_t size, uint64_t offset) {
    return taut_sys_file_read(file, data, size, offset);
}

int64_t taut_sock_file_size(int file) {
    return taut_sys_file_size(file);
}

int taut_sock_file_seek(int file, uint64_t offset) {
    return taut_sys_file_seek(file, offset);
}

int taut_sock_name(int fd, struct sockaddr *addr, socklen_t *size) {
    return taut_sys_sockname(fd, addr, size);
}

int taut_sock_peer(int fd, struct sockaddr *addr, socklen_t *size) {
    return taut_sys_peername(fd, addr, size);
}

int taut_sock_family(int fd) {
    return taut_sys_family(fd);
}

int taut_sock_connect(int fd, const struct sockaddr *addr, socklen_t size) {
    return taut_sys_connect(fd, addr, size);
}

int taut_sock_nodelay(int fd) {
    return taut_sys_nodelay(fd);
}

int taut_sock_error(int fd) {
    return taut_sys_so_error(fd);
}

void taut_sock_close(int fd) {
    (void)taut_sys_close(fd);
}
