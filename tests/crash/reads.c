/* Counts the reads by which a program reads its inputs, and breaks some of them. It is loaded with
 * points.c.
 *
 * Openings count as reads. Only reads of working ranks count, after the run's metrics.jsonl was
 * opened. Before that, an input that can't be read is refused.
 *
 *   POINTS_INPUTS      directories of inputs, separated by colons
 *   POINTS_READS       the number of reads is written to this file after each
 *   POINTS_READ_AT     the first read that fails, from 1
 *   POINTS_READ_COUNT  how many reads fail; 0 for all after the first
 *   POINTS_READ_ERRNO  the error of failing reads; if it is negative, all reads of files that were
 *                      open at POINTS_READ_AT fail for ever, like those of stale handles
 */
#define _GNU_SOURCE
#include "reads.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *inputs;
static long number, first, count_of_failing;
static int code, numbers_file = -1;
static volatile int at_work;
/* The stale files, by descriptor. */
#define MOST_FILES 4096
static unsigned char is_stale[MOST_FILES];
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void prepare(void)
{
    const char *value;
    inputs = getenv("POINTS_INPUTS");
    if ((value = getenv("POINTS_READS")))
        numbers_file = syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if ((value = getenv("POINTS_READ_AT")))
        first = atol(value);
    if ((value = getenv("POINTS_READ_COUNT")))
        count_of_failing = atol(value);
    if ((value = getenv("POINTS_READ_ERRNO")))
        code = atoi(value);
}

/* Whether a path is below one of the directories of inputs. */
static int is_input(const char *path)
{
    const char *next = inputs;
    while (next && *next) {
        size_t length = strcspn(next, ":");
        if (!strncmp(path, next, length) && path[length] == '/')
            return 1;
        next += length + (next[length] == ':');
    }
    return 0;
}

/* Whether an open file is an input. */
static int is_open_input(int file)
{
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_input(path);
}

/* Counts a read, or the opening of a file that has no number yet. Gives false if it is to fail, and
 * sets errno. */
static int count(int file)
{
    char text[32];
    int fails = 0;
    pthread_mutex_lock(&turn);
    number++;
    if (number == first && code < 0)
        for (int other = 0; other < MOST_FILES; other++)
            is_stale[other] = is_open_input(other);
    if (first && code > 0 && number >= first && (!count_of_failing || number < first + count_of_failing))
        fails = code;
    else if (code < 0 && file >= 0 && file < MOST_FILES && is_stale[file])
        fails = -code;
    if (numbers_file >= 0)
        syscall(SYS_pwrite64, numbers_file, text, snprintf(text, sizeof text, "%ld\n", number), 0);
    pthread_mutex_unlock(&turn);
    if (fails)
        errno = fails;
    return !fails;
}

int reads_open(const char *name, int flags, int *file)
{
    if (!inputs)
        return 0;
    if (strstr(name, "metrics.jsonl"))
        at_work = 1;
    if (!at_work || flags & (O_CREAT | O_TRUNC) || !is_input(name))
        return 0;
    *file = count(-1) ? syscall(SYS_openat, AT_FDCWD, name, flags, 0) : -1;
    if (*file >= 0 && *file < MOST_FILES)
        is_stale[*file] = 0;
    return 1;
}

static int may_read(int file)
{
    return !at_work || !is_open_input(file) || count(file);
}

ssize_t read(int file, void *bytes, size_t size)
{
    return may_read(file) ? syscall(SYS_read, file, bytes, size) : -1;
}

ssize_t pread64(int file, void *bytes, size_t size, off64_t offset)
{
    return may_read(file) ? syscall(SYS_pread64, file, bytes, size, offset) : -1;
}

ssize_t pread(int file, void *bytes, size_t size, off_t offset)
{
    return pread64(file, bytes, size, offset);
}

ssize_t readv(int file, const struct iovec *pieces, int pieces_count)
{
    return may_read(file) ? syscall(SYS_readv, file, pieces, pieces_count) : -1;
}
