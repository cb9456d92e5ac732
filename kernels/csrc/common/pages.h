#pragma once

#include <stddef.h>

/* Asks the kernel to back memory that has not been written to by large pages, where it is large. The numbers stay. */
void use_large_pages(void *memory, size_t bytes);
