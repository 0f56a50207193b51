#include "io/console_place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/sys.h"

#define BACKLOG 16
#define LOOKS_MAX 4096 /* names in the directory */

static int is_off(const char *text) {
    return text != NULL && (strcmp(text, "0") == 0 || strcmp(text, "off") == 0);
}

void taut_console_place_find(taut_console_place *place) {
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *metrics = getenv("TAUT_METRICS_PORT");
    *place = (taut_console_place){.metrics = ""};
    if (metrics != NULL && !is_off(metrics) && strlen(metrics) < sizeof place->metrics)
        memcpy(place->metrics, metrics, strlen(metrics) + 1);
    if (is_off(getenv("TAUT_CONSOLE")))
        return;
    size_t room = sizeof place->directories[0];
    if (runtime != NULL && runtime[0] == '/' && strlen(runtime) + 24 < room)
        snprintf(place->directories[0], room, "%s/taut", runtime);
    snprintf(place->directories[1], room, "/tmp/taut-%u", (unsigned)geteuid());
}

/* An fd of the directory, which is ours alone, or a negative error. */
static int open_directory(const char *directory) {
    struct stat st;
    (void)mkdir(directory, 0700); /* whether it is there now shows when it is opened */
    int fd = (int)TAUT_SYS_RC(
        open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd < 0)
        return fd;
    int rc = (int)TAUT_SYS_RC(fstat(fd, &st));
    if (rc == 0 && st.st_uid != geteuid())
        rc = -EPERM;
    if (rc == 0 && (st.st_mode & 077) != 0)
        rc = (int)TAUT_SYS_RC(fchmod(fd, 0700));
    if (rc == 0)
        return fd;
    taut_sys_close(fd);
    return rc;
}

static int unix_socket(void) {
    return (int)TAUT_SYS_RC(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

static int address_of(const char *path, struct sockaddr_un *addr) {
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr->sun_path)
        return -ENAMETOOLONG;
    memcpy(addr->sun_path, path, strlen(path) + 1);
    return 0;
}

/* Nobody listens there. The id of a process does not tell: the directory may be shared between
 * namespaces of them. */
static int is_stale(const char *path) {
    struct sockaddr_un addr;
    int fd = unix_socket();
    if (fd < 0)
        return 0;
    int rc = address_of(path, &addr);
    if (rc == 0)
        rc = taut_sys_connect(fd, (const struct sockaddr *)&addr, sizeof addr);
    taut_sys_close(fd);
    return rc == -ECONNREFUSED;
}

static void remove_stale(const char *directory, int fd) {
    char path[TAUT_CONSOLE_PATH_MAX + 280];
    int copy = (int)TAUT_SYS_RC(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    if (dir == NULL) {
        if (copy >= 0)
            taut_sys_close(copy);
        return;
    }
    struct dirent *e;
    for (int looks = 0; looks < LOOKS_MAX && (e = readdir(dir)) != NULL; looks++) {
        char *end;
        long pid = strtol(e->d_name, &end, 10);
        if (end == e->d_name || strcmp(end, ".sock") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
        if (pid > 0 && kill((pid_t)pid, 0) != 0 && is_stale(path))
            (void)unlink(path);
    }
    closedir(dir);
}

/* Binds and listens; another namespace's process of our number keeps its socket. */
static int listen_at(const char *path) {
    struct sockaddr_un addr;
    int rc = address_of(path, &addr);
    int fd = rc < 0 ? rc : unix_socket();
    if (fd < 0)
        return fd;
    rc = (int)TAUT_SYS_RC(bind(fd, (const struct sockaddr *)&addr, sizeof addr));
    if (rc == -EADDRINUSE && is_stale(path) && unlink(path) == 0)
        rc = (int)TAUT_SYS_RC(bind(fd, (const struct sockaddr *)&addr, sizeof addr));
    if (rc == 0) {
        rc = (int)TAUT_SYS_RC(chmod(path, 0600));
        if (rc == 0)
            rc = (int)TAUT_SYS_RC(listen(fd, BACKLOG));
        if (rc < 0)
            (void)unlink(path);
    }
    if (rc == 0)
        return fd;
    taut_sys_close(fd);
    return rc;
}

int taut_console_listen(const char *directory, char path[TAUT_CONSOLE_PATH_MAX]) {
    path[0] = '\0';
    if (directory[0] == '\0')
        return -ENOENT;
    int dir = open_directory(directory);
    if (dir < 0)
        return dir;
    remove_stale(directory, dir);
    taut_sys_close(dir);
    int size = snprintf(path, TAUT_CONSOLE_PATH_MAX, "%s/%d.sock", directory, (int)getpid());
    int fd = size < (int)TAUT_CONSOLE_PATH_MAX ? listen_at(path) : -ENAMETOOLONG;
    if (fd < 0)
        path[0] = '\0';
    return fd;
}

/* "host:port" in two; 0 or -EINVAL. */
static int split(const char *address, char *host, size_t room, const char **port) {
    const char *colon = strrchr(address, ':');
    *port = colon == NULL ? address : colon + 1;
    if ((*port)[0] == '\0' || (*port)[strspn(*port, "0123456789")] != '\0' ||
        strtoul(*port, NULL, 10) > 65535)
        return -EINVAL;
    size_t size = colon == NULL ? 0 : (size_t)(colon - address);
    if (size > 1 && address[0] == '[' && address[size - 1] == ']') {
        address++;
        size -= 2;
    }
    if (size >= room)
        return -EINVAL;
    snprintf(host, room, "%.*s", size > 0 ? (int)size : 9, size > 0 ? address : "127.0.0.1");
    return 0;
}

int taut_console_listen_tcp(const char *address) {
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *info = NULL;
    char host[TAUT_CONSOLE_ADDRESS_MAX];
    const char *port;
    const int on = 1;
    int rc = split(address, host, sizeof host, &port);
    if (rc == 0 && getaddrinfo(host, port, &hints, &info) != 0)
        rc = -EINVAL;
    if (rc < 0)
        return rc;
    int fd =
        (int)TAUT_SYS_RC(socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (fd >= 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        rc = (int)TAUT_SYS_RC(bind(fd, info->ai_addr, info->ai_addrlen));
        if (rc == 0)
            rc = (int)TAUT_SYS_RC(listen(fd, BACKLOG));
        if (rc < 0)
            taut_sys_close(fd);
    }
    freeaddrinfo(info);
    return fd < 0 || rc == 0 ? fd : rc;
}

int taut_console_peer_is_user(int fd) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && size == sizeof peer &&
           (peer.uid == geteuid() || peer.uid == 0);
}
