#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "io/peek.h"

static const enum taut_peek_mode modes[] = {TAUT_PEEK_VM, TAUT_PEEK_PROC_MEM, TAUT_PEEK_PIPE};

/* Two pages, the second of which is not there. */
static unsigned char *page_with_an_end(size_t *size) {
    *size = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *page =
        mmap(NULL, 2 * *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    CHECK_EQ(munmap(page + *size, *size), 0);
    for (size_t i = 0; i < *size; i++)
        page[i] = (unsigned char)(i * 7);
    return page;
}

static void reads_what_is_there_and_refuses_the_rest(void) {
    static unsigned char got[200000], from[200000];
    size_t size;
    unsigned char *page = page_with_an_end(&size);
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (unsigned char)(i % 251);
    int fds = check_fd_count();
    for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
        taut_peek p;
        CHECK_EQ(taut_peek_begin(&p, modes[m]), 0);
        CHECK_EQ(p.mode, modes[m]);
        memset(got, 0, sizeof got);
        CHECK_EQ(taut_peek_read(&p, got, from, sizeof from), 0); /* more than a pipe takes */
        CHECK_EQ(memcmp(got, from, sizeof from), 0);
        CHECK_EQ(taut_peek_read(&p, got, page + size - 16, 16), 0);
        CHECK_EQ(memcmp(got, page + size - 16, 16), 0);
        CHECK_EQ(taut_peek_read(&p, got, page + size - 16, 17), -EFAULT);
        CHECK_EQ(taut_peek_read(&p, got, page + size, 1), -EFAULT);
        CHECK_EQ(taut_peek_read(&p, got, NULL, 8), -EFAULT);
        CHECK_EQ(taut_peek_read(&p, got, (void *)-4096, 8), -EFAULT);
        /* A refusal leaves nothing behind for the next read. */
        CHECK_EQ(taut_peek_read(&p, got, page + 5, 3), 0);
        CHECK_EQ(memcmp(got, page + 5, 3), 0);
        taut_peek_end(&p);
        CHECK_EQ(taut_peek_read(&p, got, page, 1), -EFAULT);
    }
    CHECK_EQ(check_fd_count(), fds);
    munmap(page, size);
}

static void pages_are_read_once(void) {
    static taut_peek_pages pages;
    size_t size = TAUT_PEEK_PAGE_SIZE;
    char *at = mmap(NULL, 3 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char got[16], big[2 * TAUT_PEEK_PAGE_SIZE];
    taut_peek p;
    CHECK(at != MAP_FAILED);
    CHECK_EQ(mprotect(at + 2 * size, size, PROT_NONE), 0);
    memset(at, 'a', 2 * size);
    CHECK_EQ(taut_peek_begin(&p, TAUT_PEEK_VM), 0);
    p.pages = &pages;
    CHECK_EQ(taut_peek_read(&p, got, at + size - 8, 16), 0); /* of two pages */
    CHECK_EQ(memcmp(got, "aaaaaaaaaaaaaaaa", 16), 0);
    memset(at, 'b', 2 * size);
    CHECK_EQ(taut_peek_read(&p, got, at, 16), 0);
    CHECK_EQ(got[0], 'a'); /* as it was */
    CHECK_EQ(taut_peek_read(&p, big, at, sizeof big), 0);
    CHECK_EQ(big[0], 'b'); /* more than a page is looked at anew */
    CHECK_EQ(taut_peek_read(&p, got, at + 2 * size - 8, 16), -EFAULT);
    CHECK_EQ(taut_peek_read(&p, got, at + 2 * size, 1), -EFAULT);
    taut_peek_end(&p);
    CHECK(p.pages == NULL);
    taut_peek_begin_direct(&p);
    CHECK_EQ(taut_peek_read(&p, got, at, 16), 0);
    CHECK_EQ(got[15], 'b');
    taut_peek_end(&p);
    munmap(at, 3 * size);
}

static const check_test tests[] = {
    CHECK_TEST(reads_what_is_there_and_refuses_the_rest),
    CHECK_TEST(pages_are_read_once),
};

CHECK_MAIN(tests)
