#include "io/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "io/sys.h"

#define PROGRAM_MAX 160
#define PROGRAM_WORDS 4

/* ---- where it is ---- */

static int format_path(char *to, const char *directory, const char *rest) {
    if (directory == NULL || directory[0] != '/')
        return 0;
    int size = snprintf(to, TAUT_JOURNAL_PATH_MAX, "%s%s", directory, rest);
    if (size > 0 && size < TAUT_JOURNAL_PATH_MAX)
        return 1;
    to[0] = '\0';
    return 0;
}

int taut_journal_find(char path[TAUT_JOURNAL_PATH_MAX]) {
    const char *given = getenv("TAUT_JOURNAL");
    path[0] = '\0';
    if (given != NULL && *given != '\0' && strcmp(given, "1") != 0)
        return format_path(path, given, "");
    return format_path(path, getenv("XDG_STATE_HOME"), "/taut/journal.jsonl") ||
           format_path(path, getenv("HOME"), "/.local/state/taut/journal.jsonl");
}

void taut_journal_init(taut_journal *j, const char *path) {
    *j = (taut_journal){.cut = 0};
    size_t size = strlen(path);
    if (size < sizeof j->path)
        memcpy(j->path, path, size + 1);
}

static void make_directories(const char *path) {
    char part[TAUT_JOURNAL_PATH_MAX];
    for (const char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        memcpy(part, path, (size_t)(slash - path));
        part[slash - path] = '\0';
        (void)mkdir(part, 0700); /* whether it is there now shows when the file is opened */
    }
}

/* ---- the file ---- */

static int open_once(const char *path) {
    /* O_NONBLOCK: it could be a FIFO that nobody reads, until it has been looked at. */
    return (int)TAUT_SYS_RC(
        open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
}

/* An fd and its size, or a negative error. */
static int open_file(const char *path, int64_t *size) {
    struct stat st;
    int fd = open_once(path);
    if (fd == -ENOENT) {
        make_directories(path);
        fd = open_once(path);
    }
    if (fd < 0)
        return fd;
    int rc = (int)TAUT_SYS_RC(fstat(fd, &st));
    if (rc == 0 && (!S_ISREG(st.st_mode) || st.st_uid != geteuid()))
        rc = -EPERM;
    if (rc < 0) {
        taut_sys_close(fd);
        return rc;
    }
    *size = st.st_size;
    return fd;
}

static int is_at(int fd, const char *path) {
    struct stat opened, named;
    return fstat(fd, &opened) == 0 && lstat(path, &named) == 0 && opened.st_ino == named.st_ino &&
           opened.st_dev == named.st_dev;
}

/* Of processes that find the file full at once, the one that gets the lock moves it away. */
static void rotate(int fd, const char *path) {
    char old[TAUT_JOURNAL_PATH_MAX + 2];
    snprintf(old, sizeof old, "%s.1", path);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && is_at(fd, path))
        (void)rename(path, old);
}

/* ---- a line ---- */

/* The first words of the command line: what people call the program. */
static void read_program(char *to, size_t room) {
    char text[PROGRAM_MAX];
    ssize_t size = -1;
    int fd = (int)TAUT_SYS_RC(open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC));
    if (fd >= 0) {
        size = taut_sys_read(fd, text, sizeof text);
        taut_sys_close(fd);
    }
    size_t n = 0;
    int words = 1;
    for (ssize_t i = 0; i < size && n < room - 1; i++) {
        if (text[i] == '\0' && (words++ == PROGRAM_WORDS || i == size - 1))
            break;
        to[n++] = text[i] == '\0' ? ' ' : text[i];
    }
    to[n] = '\0';
}

static int format_line(taut_buf *line, const taut_finding *f, int after_cut) {
    taut_json_out w;
    char program[PROGRAM_MAX];
    read_program(program, sizeof program);
    if (after_cut && taut_buf_append(line, "\n", 1) < 0)
        return -ENOMEM;
    taut_json_out_init(&w, line);
    taut_json_out_open(&w, '{');
    taut_json_out_key(&w, "time");
    taut_json_out_seconds(&w, taut_clock_real_ns());
    taut_json_out_key(&w, "pid");
    taut_json_out_i64(&w, getpid());
    taut_json_out_key(&w, "program");
    taut_json_out_text(&w, program);
    taut_json_out_key(&w, "finding");
    taut_findings_write(&w, f);
    taut_json_out_close(&w, '}');
    int rc = taut_json_out_end(&w);
    return rc < 0 ? rc : taut_buf_append(line, "\n", 1);
}

static int append_line(taut_journal *j, int fd, const taut_buf *line) {
    size_t size = taut_buf_size(line);
    ssize_t n;
    do
        n = taut_sys_write(fd, taut_buf_bytes(line), size);
    while (n == -EINTR);
    if (n > 0)
        j->cut = (size_t)n < size;
    return n < 0 ? (int)n : (size_t)n < size ? -ENOSPC : 0;
}

int taut_journal_write(taut_journal *j, const taut_finding *f) {
    taut_buf line;
    int64_t size = 0;
    if (j->path[0] == '\0')
        return TAUT_E_UNSUPPORTED;
    int fd = open_file(j->path, &size);
    if (fd >= 0 && size >= TAUT_JOURNAL_SIZE_MAX) {
        rotate(fd, j->path);
        taut_sys_close(fd);
        fd = open_file(j->path, &size);
        if (fd >= 0 && size >= TAUT_JOURNAL_SIZE_MAX) { /* bounded, even where it cannot move */
            taut_sys_close(fd);
            fd = -EFBIG;
        }
    }
    if (fd < 0)
        return fd;
    taut_buf_init(&line);
    int rc = format_line(&line, f, j->cut);
    if (rc == 0)
        rc = append_line(j, fd, &line);
    taut_buf_free(&line);
    taut_sys_close(fd);
    return rc;
}
