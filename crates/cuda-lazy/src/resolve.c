// Finds the functions of one CUDA library. Compiled once per library, with
//   RESOLVE  the name of the function below that its stand-ins call,
//   SONAME   the library, as the loader knows it,
//   ABSENT   what its functions return if it is not there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// As stand_in.S lays it out.
struct stand_in {
  void *target;
  const char *name;
};

static void *library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *open_in(const char *folder, const char *soname) {
  char path[4096];
  const int length = snprintf(path, sizeof path, "%s/%s", folder, soname);
  return length < (int)sizeof path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

// Opens the library in the first folder that matches the pattern and has it.
static void look_in(const char *prefix, const char *pattern) {
  char whole[4096];
  glob_t folders;
  const int length = snprintf(whole, sizeof whole, "%s%s", prefix, pattern);
  if (library || length >= (int)sizeof whole || glob(whole, 0, NULL, &folders) != 0) {
    return;
  }
  for (size_t i = 0; i < folders.gl_pathc && !library; i++) {
    library = open_in(folders.gl_pathv[i], SONAME);
  }
  globfree(&folders);
}

static void open_library(void) {
  library = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);

  const char *const environments[] = {getenv("VIRTUAL_ENV"), getenv("CONDA_PREFIX")};
  for (size_t i = 0; i < sizeof environments / sizeof *environments; i++) {
    if (environments[i] && *environments[i]) {
      look_in(environments[i], "/lib");
      look_in(environments[i], "/lib/python3*/site-packages/nvidia/*/lib");
    }
  }
  look_in("", "/usr/local/cuda/lib64");
  look_in("", "/usr/local/cuda-13*/lib64");
  look_in("", "/usr/local/nvidia/lib64");
  look_in("", "/usr/lib/wsl/lib");
  look_in("", "/usr/local/lib/python3*/site-packages/nvidia/*/lib");
  look_in("", "/usr/local/lib/python3*/dist-packages/nvidia/*/lib");
  look_in("", "/usr/lib/python3*/site-packages/nvidia/*/lib");
  look_in("", "/usr/lib/python3/dist-packages/nvidia/*/lib");
}

static int absent_status(void) { return ABSENT; }

static const char *absent_text(void) { return SONAME " was not found, or is too old"; }

// cuGetErrorName and cuGetErrorString give the text through a pointer.
static int absent_text_out(int error, const char **text) {
  (void)error;
  *text = absent_text();
  return 0;
}

static void *absent(const char *name) {
  if (strcmp(name, "cuGetErrorName") == 0 || strcmp(name, "cuGetErrorString") == 0) {
    return absent_text_out;
  }
  const int returns_text = strstr(name, "GetStatusName") || strstr(name, "GetStatusString") ||
                           strcmp(name, "nvrtcGetErrorString") == 0;
  return returns_text ? (void *)absent_text : (void *)absent_status;
}

__attribute__((visibility("hidden"))) void *RESOLVE(struct stand_in *stand_in) {
  pthread_once(&once, open_library);
  void *target = library ? dlsym(library, stand_in->name) : NULL;
  if (!target) {
    target = absent(stand_in->name);
  }
  // Threads that race here store the same.
  __atomic_store_n(&stand_in->target, target, __ATOMIC_RELEASE);
  return target;
}
