/* Opens an input to read it, and counts that. Does nothing and gives false for other files. */
__attribute__((visibility("hidden"))) int reads_open(const char *name, int flags, int *file);
