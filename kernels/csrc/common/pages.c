/* Large pages. glibc's malloc returns large blocks to the system when they are freed: those above 32 MB always, smaller
   ones often. So the next block is new, and the first write to each page of 4 kB costs a page fault. Over a long
   sequence this took up to 45 percent of a layer's time. A page of 2 MB costs one fault. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel.h"
#include "pages.h"

EXPORT void use_large_pages(void *memory, size_t bytes) {
    enum { LARGE = 8 << 20 };
    if (!memory || bytes < LARGE) return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = ((uintptr_t)memory + page - 1) & ~(page - 1),
                    end = ((uintptr_t)memory + bytes) & ~(page - 1);
    if (start < end) (void)madvise((void *)start, end - start, MADV_HUGEPAGE); /* a kernel without them refuses */
}
