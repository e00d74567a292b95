/* Numbers the operations by which a program changes files, and breaks one of them.
 *
 * It is loaded before libc (LD_PRELOAD). It knows the calls that Rust's standard library and HDF5
 * make. rustix makes its system calls without libc, so the reservation of space for embeddings.h5
 * (fallocate) is not seen. Tests with full file systems cover that.
 *
 *   POINTS_ROOT    only paths below this directory count
 *   POINTS_LOG     each operation that was done appends a line to this file (see `record`)
 *   POINTS_INODES  every new file gets a second name in this directory, its inode's number, so its
 *                  content can be read when it has no other name any more
 *   POINTS_AT      the number, from 1, of the operation to break
 *   POINTS_DO      how: kill-before, kill-half, kill-after, stop (SIGSTOP before it), fail, fail-on
 *                  (it and all after it)
 *   POINTS_ERRNO   the error of failing operations
 *
 * reads.c counts reads separately.
 */
#define _GNU_SOURCE
#include "reads.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *root, *inodes, *manner = "";
static size_t root_length;
static long number, chosen;
static int code, log_file = -1;
/* Each operation is done under this lock with its line in the log, so the log's order is true. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void prepare(void)
{
    const char *value;
    if ((value = getenv("POINTS_LOG")))
        log_file = syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    inodes = getenv("POINTS_INODES");
    if ((value = getenv("POINTS_AT")))
        chosen = atol(value);
    if ((value = getenv("POINTS_DO")))
        manner = value;
    if ((value = getenv("POINTS_ERRNO")))
        code = atoi(value);
    if ((root = getenv("POINTS_ROOT")))
        root_length = strlen(root);
}

static int below(const char *path)
{
    return root && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* Makes the path of a name in a directory. Tells whether it is below the root. */
static int find(int directory, const char *name, char *path)
{
    char link[64];
    ssize_t length = 0;
    if (!root)
        return 0;
    if (*name != '/') {
        snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
        if ((length = readlink(link, path, PATH_MAX - 2)) < 0)
            return 0;
        if (*name)
            path[length++] = '/';
    }
    snprintf(path + length, PATH_MAX - length, "%s", name);
    return below(path);
}

static int find_open(int file, char *path)
{
    int before = errno;
    int found = find(file, "", path);
    errno = before;
    return found;
}

static unsigned long inode(const char *path)
{
    struct stat found;
    return lstat(path, &found) ? 0 : found.st_ino;
}

static unsigned long inode_of_parent(const char *path)
{
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    return inode(parent);
}

static void end(int signal)
{
    syscall(SYS_kill, getpid(), signal);
}

static int is(const char *other)
{
    return !strcmp(manner, other);
}

enum turn { GO, HALF, REFUSED };

/* Starts an operation: takes a number, and does what comes before the operation. */
static enum turn begin(void)
{
    pthread_mutex_lock(&turn);
    number++;
    if (number == chosen && is("kill-before"))
        end(SIGKILL);
    if (number == chosen && is("stop"))
        end(SIGSTOP);
    if ((number == chosen && is("fail")) || (number > chosen && chosen && is("fail-on"))) {
        pthread_mutex_unlock(&turn);
        errno = code;
        return REFUSED;
    }
    return number == chosen && (is("kill-half") || is("fail-on")) ? HALF : GO;
}

/* Appends to the log: number, operation, inode, inode of the directory, offset, length, path,
 * new path. */
static void record(const char *what, unsigned long file, long offset, long length, const char *path, const char *path2)
{
    char line[2 * PATH_MAX + 200];
    if (log_file < 0)
        return;
    int size = snprintf(line, sizeof line, "%ld\t%s\t%lu\t%lu\t%ld\t%ld\t%s\t%s\n", number, what, file,
                        inode_of_parent(path), offset, length, path, path2);
    syscall(SYS_write, log_file, line, size);
}

static void finish(void)
{
    if (number == chosen && (is("kill-after") || is("kill-half")))
        end(SIGKILL);
    pthread_mutex_unlock(&turn);
}

/* These operations are done or not; none can be half done. */
static int begin_whole(void)
{
    switch (begin()) {
    case HALF:
        if (is("kill-half"))
            end(SIGKILL);
        pthread_mutex_unlock(&turn);
        errno = code;
        return 0;
    case GO:
        return 1;
    default:
        return 0;
    }
}

static int open_at(int directory, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX], second[PATH_MAX];
    int input;
    if (reads_open(name, flags, &input))
        return input;
    int changes = flags & (O_CREAT | O_TRUNC) && (flags & O_TMPFILE) != O_TMPFILE;
    if (!changes || !find(directory, name, path))
        return syscall(SYS_openat, directory, name, flags, mode);
    if (!begin_whole())
        return -1;
    unsigned long before = inode(path);
    int file = syscall(SYS_openat, directory, name, flags, mode);
    if (file >= 0 && !before) {
        unsigned long made = inode(path);
        if (inodes) {
            snprintf(second, sizeof second, "%s/%lu", inodes, made);
            syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, second, 0);
        }
        record("create", made, 0, 0, path, "");
    } else if (file >= 0 && flags & O_TRUNC) {
        record("truncate", before, 0, 0, path, "");
    }
    int failure = errno;
    finish();
    errno = failure;
    return file;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *name, int flags, ...)
{
    MODE(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
    MODE(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

int openat(int directory, const char *name, int flags, ...)
{
    MODE(flags)
    return open_at(directory, name, flags, mode);
}

int openat64(int directory, const char *name, int flags, ...)
{
    MODE(flags)
    return open_at(directory, name, flags, mode);
}

/* Writes at the file's own position if `offset` is negative. */
static ssize_t put(int file, const void *bytes, size_t count, off64_t offset)
{
    return offset < 0 ? syscall(SYS_write, file, bytes, count) : syscall(SYS_pwrite64, file, bytes, count, offset);
}

static ssize_t put_counted(int file, const void *bytes, size_t count, off64_t offset)
{
    char path[PATH_MAX];
    struct stat found;
    if (!find_open(file, path))
        return put(file, bytes, count, offset);
    enum turn now = begin();
    if (now == REFUSED)
        return -1;
    fstat(file, &found);
    off64_t start = offset;
    if (start < 0)
        start = fcntl(file, F_GETFL) & O_APPEND ? found.st_size : lseek64(file, 0, SEEK_CUR);
    ssize_t written = put(file, bytes, now == HALF ? (count + 1) / 2 : count, offset);
    if (written >= 0)
        record("write", found.st_ino, start, written, path, "");
    int failure = errno;
    finish();
    errno = failure;
    return written;
}

ssize_t write(int file, const void *bytes, size_t count)
{
    return put_counted(file, bytes, count, -1);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset)
{
    return put_counted(file, bytes, count, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset)
{
    return put_counted(file, bytes, count, offset);
}

ssize_t writev(int file, const struct iovec *pieces, int count)
{
    char path[PATH_MAX];
    if (!find_open(file, path))
        return syscall(SYS_writev, file, pieces, count);
    for (int piece = 0; piece < count; piece++)
        if (pieces[piece].iov_len)
            return put_counted(file, pieces[piece].iov_base, pieces[piece].iov_len, -1);
    return 0;
}

int ftruncate64(int file, off64_t length)
{
    char path[PATH_MAX];
    struct stat found;
    if (!find_open(file, path))
        return syscall(SYS_ftruncate, file, length);
    if (!begin_whole())
        return -1;
    fstat(file, &found);
    int failed = syscall(SYS_ftruncate, file, length);
    if (!failed)
        record("truncate", found.st_ino, 0, length, path, "");
    int failure = errno;
    finish();
    errno = failure;
    return failed;
}

int ftruncate(int file, off_t length)
{
    return ftruncate64(file, length);
}

static int sync_by(long call, int file)
{
    char path[PATH_MAX];
    struct stat found;
    if (!find_open(file, path))
        return syscall(call, file);
    if (is("fail-syncs")) {
        errno = code;
        return -1;
    }
    if (!begin_whole())
        return -1;
    int failed = syscall(call, file);
    fstat(file, &found);
    if (!failed)
        record("sync", found.st_ino, 0, found.st_size, path, "");
    int failure = errno;
    finish();
    errno = failure;
    return failed;
}

int fsync(int file)
{
    return sync_by(SYS_fsync, file);
}

int fdatasync(int file)
{
    return sync_by(SYS_fdatasync, file);
}

int renameat2(int old_directory, const char *old, int new_directory, const char *new, unsigned flags)
{
    char path[PATH_MAX], path2[PATH_MAX];
    if (!find(old_directory, old, path) || !find(new_directory, new, path2))
        return syscall(SYS_renameat2, old_directory, old, new_directory, new, flags);
    if (!begin_whole())
        return -1;
    unsigned long file = inode(path);
    int failed = syscall(SYS_renameat2, old_directory, old, new_directory, new, flags);
    if (!failed)
        record("rename", file, 0, 0, path, path2);
    int failure = errno;
    finish();
    errno = failure;
    return failed;
}

int renameat(int old_directory, const char *old, int new_directory, const char *new)
{
    return renameat2(old_directory, old, new_directory, new, 0);
}

int rename(const char *old, const char *new)
{
    return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0);
}

int linkat(int old_directory, const char *old, int new_directory, const char *new, int flags)
{
    char path[PATH_MAX];
    if (!find(new_directory, new, path))
        return syscall(SYS_linkat, old_directory, old, new_directory, new, flags);
    if (!begin_whole())
        return -1;
    int failed = syscall(SYS_linkat, old_directory, old, new_directory, new, flags);
    if (!failed)
        record("link", inode(path), 0, 0, path, "");
    int failure = errno;
    finish();
    errno = failure;
    return failed;
}

int link(const char *old, const char *new)
{
    return linkat(AT_FDCWD, old, AT_FDCWD, new, 0);
}

int unlinkat(int directory, const char *name, int flags)
{
    char path[PATH_MAX];
    if (!find(directory, name, path))
        return syscall(SYS_unlinkat, directory, name, flags);
    if (!begin_whole())
        return -1;
    unsigned long file = inode(path);
    int failed = syscall(SYS_unlinkat, directory, name, flags);
    if (!failed)
        record("unlink", file, 0, 0, path, "");
    int failure = errno;
    finish();
    errno = failure;
    return failed;
}

int unlink(const char *name)
{
    return unlinkat(AT_FDCWD, name, 0);
}

int rmdir(const char *name)
{
    return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}

int mkdirat(int directory, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    if (!find(directory, name, path))
        return syscall(SYS_mkdirat, directory, name, mode);
    if (!begin_whole())
        return -1;
    int failed = syscall(SYS_mkdirat, directory, name, mode);
    if (!failed)
        record("mkdir", inode(path), 0, 0, path, "");
    int failure = errno;
    finish();
    errno = failure;
    return failed;
}

int mkdir(const char *name, mode_t mode)
{
    return mkdirat(AT_FDCWD, name, mode);
}
