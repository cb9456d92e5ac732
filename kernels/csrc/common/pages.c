/* Large pages. glibc's malloc takes a block above 32 MB from the system and returns it when it is freed. So the next
   block is new, and the first write to each of its pages is a page fault. Over a long sequence this took up to 41
   percent of a layer's time. A large page costs one fault: 2 MB where pages have 4 KiB, 32 MB where they have 16 KiB.
   Smaller blocks may be part of malloc's heap, where the request would outlive the block. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel.h"
#include "pages.h"

EXPORT void use_large_pages(void *memory, size_t bytes) {
    enum { LARGE = 32 << 20 };
    if (!memory || bytes < LARGE) return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = ((uintptr_t)memory + page - 1) & ~(page - 1),
                    end = ((uintptr_t)memory + bytes) & ~(page - 1);
    if (start < end) (void)madvise((void *)start, end - start, MADV_HUGEPAGE); /* refused where Linux has none */
}
