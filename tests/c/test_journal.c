/* io/journal and io/reporter: what stands in the file, and what the thread writes when. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "check.h"
#include "io/journal.h"
#include "io/reporter.h"

static char dir[128], path[256], old[260];

static void make_dir(void) {
    snprintf(dir, sizeof dir, "/tmp/taut-test-journal-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/state/taut/journal.jsonl", dir);
    snprintf(old, sizeof old, "%s.1", path);
}

static void remove_dir(void) {
    char part[256];
    unlink(path);
    unlink(old);
    snprintf(part, sizeof part, "%s/state/taut", dir);
    rmdir(part);
    snprintf(part, sizeof part, "%s/state", dir);
    rmdir(part);
    CHECK_EQ(rmdir(dir), 0);
}

static char text[64 * 1024];
static const char *content(const char *name) {
    int fd = open(name, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    CHECK(n >= 0);
    text[n] = '\0';
    close(fd);
    return text;
}

static int lines(const char *s) {
    int n = 0;
    for (; *s != '\0'; s++)
        n += *s == '\n';
    return n;
}

static const taut_finding one = {
    .id = 1, .count = 3, .line = 7, .code = "deadlock", .file = "a.py", .cause = "\"x\"\n"};

static void lines_are_appended(void) {
    taut_journal j;
    struct stat st;
    make_dir();
    taut_journal_init(&j, path);
    CHECK_EQ(taut_journal_write(&j, &one), 0);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(taut_journal_write(&j, &one), 0);
    const char *s = content(path);
    CHECK_EQ(lines(s), 2);
    char pid[256];
    snprintf(pid, sizeof pid, ",\"pid\":%d,\"program\":\"", (int)getpid());
    CHECK(strncmp(s, "{\"time\":", 8) == 0 && strstr(s, pid) != NULL);
    CHECK(strstr(s, "\"finding\":{\"id\":1,\"code\":\"deadlock\"") != NULL);
    CHECK(strstr(s, "\"cause\":\"\\\"x\\\"\\n\"") != NULL);
    snprintf(pid, sizeof pid, "%s/state/taut", dir);
    CHECK_EQ(stat(pid, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0700);
    remove_dir();
}

static void a_full_file_is_moved_away(void) {
    taut_journal j;
    struct stat st;
    make_dir();
    taut_journal_init(&j, path);
    CHECK_EQ(taut_journal_write(&j, &one), 0);
    CHECK_EQ(truncate(path, TAUT_JOURNAL_SIZE_MAX), 0);
    CHECK_EQ(taut_journal_write(&j, &one), 0);
    CHECK_EQ(lines(content(path)), 1);
    CHECK_EQ(stat(old, &st), 0);
    CHECK_EQ(st.st_size, TAUT_JOURNAL_SIZE_MAX);
    remove_dir();
}

static void what_is_not_ours_is_left_alone(void) {
    taut_journal j;
    char other[300];
    make_dir();
    taut_journal_init(&j, path);
    CHECK_EQ(taut_journal_write(&j, &one), 0);
    snprintf(other, sizeof other, "%s/other", dir);
    CHECK_EQ(rename(path, other), 0);
    CHECK_EQ(symlink(other, path), 0);
    CHECK_EQ(taut_journal_write(&j, &one), -ELOOP);
    CHECK_EQ(lines(content(other)), 1);
    unlink(other);
    unlink(path);
    CHECK_EQ(mkfifo(path, 0600), 0);
    CHECK_EQ(taut_journal_write(&j, &one), -ENXIO); /* and does not wait for a reader */
    taut_journal_init(&j, "/dev/full");
    CHECK_EQ(taut_journal_write(&j, &one), -EPERM);
    taut_journal_init(&j, "/proc/nowhere/journal.jsonl");
    CHECK_EQ(taut_journal_write(&j, &one), -ENOENT);
    taut_journal_init(&j, "");
    CHECK(taut_journal_write(&j, &one) < 0);
    remove_dir();
}

static void the_environment_says_where(void) {
    static const struct {
        const char *given, *state, *home, *expected;
    } cases[] = {
        {NULL, NULL, NULL, ""},
        {NULL, NULL, "/home/me", "/home/me/.local/state/taut/journal.jsonl"},
        {NULL, "/var/me", "/home/me", "/var/me/taut/journal.jsonl"},
        {NULL, "relative", "/home/me", "/home/me/.local/state/taut/journal.jsonl"},
        {"/log/j", "/var/me", "/home/me", "/log/j"},
        {"0", "/var/me", "/home/me", ""},
        {"off", "/var/me", "/home/me", ""},
        {"1", "/var/me", "/home/me", "/var/me/taut/journal.jsonl"},
        {"", "/var/me", "/home/me", "/var/me/taut/journal.jsonl"},
    };
    static const char *const names[] = {"TAUT_JOURNAL", "XDG_STATE_HOME", "HOME"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *values[] = {cases[i].given, cases[i].state, cases[i].home};
        char found[TAUT_JOURNAL_PATH_MAX];
        for (int n = 0; n < 3; n++)
            if (values[n] == NULL)
                unsetenv(names[n]);
            else
                setenv(names[n], values[n], 1);
        CHECK_EQ(taut_journal_find(found), cases[i].expected[0] != '\0');
        CHECK_EQ(strcmp(found, cases[i].expected), 0);
    }
    char longer[2 * TAUT_JOURNAL_PATH_MAX], found[TAUT_JOURNAL_PATH_MAX];
    memset(longer, '/', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    setenv("TAUT_JOURNAL", longer, 1);
    CHECK_EQ(taut_journal_find(found), 0);
}

static void without_memory(int may_fail) {
    taut_journal j;
    make_dir();
    taut_journal_init(&j, path);
    int rc = taut_journal_write(&j, &one);
    CHECK(rc == 0 || (may_fail && rc == -ENOMEM));
    CHECK_EQ(lines(content(path)), rc == 0);
    remove_dir();
}

static void every_allocation(void) {
    check_every_allocation(without_memory);
}

/* ---- the thread ---- */

static uint64_t add(const char *code, int line, enum taut_finding_state state) {
    return taut_findings_add(&(taut_finding_new){.code = code,
                                                 .cause = "it grows",
                                                 .remedy = "bound it",
                                                 .file = "/a b.py",
                                                 .function = "f",
                                                 .line = line,
                                                 .state = state});
}

static int told_lines(void) {
    CHECK_EQ(taut_reporter_flush(20 * TAUT_NS_PER_S), 0);
    return lines(content(path));
}

static void what_changes_is_written(void) {
    make_dir();
    int fds = check_fd_count();
    taut_reporter_stderr_set(0);
    taut_reporter_enable(path);
    CHECK_EQ(taut_reporter_thread_id(), 0); /* nothing found, no thread */
    uint64_t id = add("queue-growth", 1, TAUT_FINDING_SEEN);
    CHECK_EQ(told_lines(), 1);
    CHECK_EQ(taut_findings_update(id, "x", TAUT_FINDING_ONGOING), 0);
    CHECK_EQ(told_lines(), 2);
    CHECK_EQ(taut_findings_update(id, "y", TAUT_FINDING_ONGOING), 0);
    CHECK_EQ(told_lines(), 2);
    CHECK_EQ(taut_findings_update(id, NULL, TAUT_FINDING_OVER), 0);
    CHECK_EQ(told_lines(), 3);
    for (int i = 0; i < 8; i++)
        add("queue-growth", 1, TAUT_FINDING_OVER);
    CHECK_EQ(told_lines(), 4); /* it is put off until it is to be told now */
    CHECK(strstr(text, "\"count\":9,") != NULL);
    CHECK_EQ(told_lines(), 4);
    CHECK(taut_reporter_thread_id() > 0);
    CHECK_EQ(check_fd_count(), fds);
    taut_reporter_disable();
    CHECK_EQ(taut_reporter_thread_id(), 0);
    add("queue-growth", 2, TAUT_FINDING_SEEN);
    CHECK_EQ(told_lines(), 4);
    taut_findings_clear();
    remove_dir();
}

/* Nobody asks for it, and nothing else happens. */
static void what_was_put_off_comes_by_itself(void) {
    uint64_t until_ns = taut_clock_now_ns() + 20 * TAUT_NS_PER_S;
    make_dir();
    taut_reporter_stderr_set(0);
    taut_reporter_enable(path);
    add("queue-growth", 1, TAUT_FINDING_SEEN);
    CHECK_EQ(told_lines(), 1);
    for (int i = 0; i < 8; i++)
        add("queue-growth", 1, TAUT_FINDING_SEEN);
    while (strstr(content(path), "\"count\":9,") == NULL && taut_clock_now_ns() < until_ns)
        sched_yield();
    CHECK(strstr(text, "\"count\":9,") != NULL);
    CHECK(lines(text) <= 3); /* on a slow machine a second may pass between two of them */
    taut_reporter_disable();
    taut_findings_clear();
    remove_dir();
}

/* Runs `scenario` in a child whose stderr is `fd`, to its exit(). */
static void in_child(int fd, void (*scenario)(void)) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(fd, STDERR_FILENO);
        scenario();
        exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void two_findings(void) {
    taut_reporter_enable(path);
    taut_reporter_stderr_set(1);
    add("queue-growth", 1, TAUT_FINDING_SEEN);
    add("blocking-call", 1, TAUT_FINDING_SEEN);
    add("queue-growth", 1, TAUT_FINDING_SEEN);
}

static void finding_and_its_end(void) {
    taut_reporter_enable(path);
    taut_reporter_stderr_set(1);
    add("queue-growth", 1, TAUT_FINDING_SEEN);
    add("blocking-call", 0, TAUT_FINDING_SEEN);
}

static void stderr_is_told_once(void) {
    int fds[2];
    make_dir();
    CHECK_EQ(pipe(fds), 0);
    in_child(fds[1], finding_and_its_end);
    close(fds[1]);
    ssize_t n = read(fds[0], text, sizeof text - 1);
    close(fds[0]);
    CHECK(n > 0);
    text[n] = '\0';
    CHECK_EQ(strcmp(text, "taut: queue-growth at /a b.py:1 in f: it grows\n"
                          "  Remedy: bound it\n"),
             0);
    CHECK_EQ(lines(content(path)), 2); /* the journal has the stall, too */
    remove_dir();
}

static void a_full_stderr_holds_nobody(void) {
    int fds[2];
    make_dir();
    CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);
    memset(text, 'x', sizeof text);
    while (write(fds[1], text, sizeof text) > 0)
        continue;
    CHECK_EQ(fcntl(fds[1], F_SETFL, 0), 0);
    in_child(fds[1], two_findings); /* the thread blocks: exit() waits for a second, no longer */
    close(fds[0]);
    close(fds[1]);
    CHECK(lines(content(path)) >= 1);
    remove_dir();
}

static const check_test tests[] = {
    CHECK_TEST(lines_are_appended),
    CHECK_TEST(a_full_file_is_moved_away),
    CHECK_TEST(what_is_not_ours_is_left_alone),
    CHECK_TEST(the_environment_says_where),
    CHECK_TEST(every_allocation),
    CHECK_TEST(what_changes_is_written),
    CHECK_TEST(what_was_put_off_comes_by_itself),
    CHECK_TEST(stderr_is_told_once),
    CHECK_TEST(a_full_stderr_holds_nobody),
};
CHECK_MAIN(tests)
