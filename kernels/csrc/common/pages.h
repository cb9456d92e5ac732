#pragma once

#include <stddef.h>

/* Asks Linux to back memory that has not been written to by large pages, where it is large. Its content stays. */
void use_large_pages(void *memory, size_t bytes);
