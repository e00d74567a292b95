/* Opens a file that is an input, to read, and counts that. False if it is none, and nothing was done. */
__attribute__((visibility("hidden"))) int reads_open(const char *name, int flags, int *file);
