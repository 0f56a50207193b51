#include "io/forks.h"

#include <pthread.h>

uint32_t taut_forks_count;

static unsigned long survivor; /* of the last fork, in the child */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int result;

/* The child has one thread. */
static void count_child(void) {
    taut_forks_count++;
    survivor = (unsigned long)pthread_self();
}

int taut_forks_left_behind(unsigned long thread) {
    return thread != survivor;
}

static void init(void) {
    result = -pthread_atfork(NULL, NULL, count_child);
}

int taut_forks_init(void) {
    pthread_once(&once, init);
    return result;
}
