/* The yardstick of child processes: posix_spawn and waitpid of one program, one after another.
 * Usage: spawn COUNT PROGRAM. Prints, as JSON and in microseconds, the time of one on the clock
 * (the median: what else runs on the machine hits some of them hard) and the mean CPU time of the
 * parent and of the child. */
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 20 };

static double wall_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static double cpu_us(int whose) {
    struct rusage used;
    getrusage(whose, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void run(char *program) {
    char *argv[] = {program, NULL};
    pid_t pid;
    int status, rc = posix_spawn(&pid, program, NULL, NULL, argv, environ);
    if (rc != 0) {
        fprintf(stderr, "%s: %s\n", program, strerror(rc));
        exit(1);
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            exit(1);
    }
    if (status != 0) {
        fprintf(stderr, "%s ended with status %d\n", program, status);
        exit(1);
    }
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int count = argc == 3 ? atoi(argv[1]) : 0;
    if (count <= 0) {
        fprintf(stderr, "usage: spawn COUNT PROGRAM\n");
        return 2;
    }
    for (int i = 0; i < WARM_UP; i++)
        run(argv[2]);
    double *each = calloc((size_t)count, sizeof *each);
    if (each == NULL)
        return 1;
    double self = cpu_us(RUSAGE_SELF), children = cpu_us(RUSAGE_CHILDREN);
    for (int i = 0; i < count; i++) {
        each[i] = -wall_us();
        run(argv[2]);
        each[i] += wall_us();
    }
    self = cpu_us(RUSAGE_SELF) - self;
    children = cpu_us(RUSAGE_CHILDREN) - children;
    qsort(each, (size_t)count, sizeof *each, compare);
    printf("{\"wall_us\": %.2f, \"parent_us\": %.2f, \"child_us\": %.2f}\n", each[count / 2],
           self / count, children / count);
    free(each);
    return 0;
}
