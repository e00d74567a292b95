// Loaded before libc: the system gives this process so many threads (PLM_TEST_THREADS) and no more,
// as under a limit of processes (ulimit -u), which root is not held to.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static atomic_int made;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
  int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
  const char *limit = getenv("PLM_TEST_THREADS");
  if (limit && atomic_fetch_add(&made, 1) >= atoi(limit)) return EAGAIN;
  return create(thread, attributes, body, argument);
}
