#include "watch.h"

#include <stdint.h>
#include <unistd.h>

void image_updated(void *arg)
{
    uint64_t one = 1;

    /* It fails only when the counter is full: then it is readable already. */
    (void)!write((int)(intptr_t)arg, &one, sizeof one);
}
