#include "extents.h"

#include <errno.h>
#include <stdlib.h>

int extents_add(uint64_t offset, size_t length, int exists, void *arg)
{
    struct extents *extents = arg;
    struct extent *last = extents->count ? &extents->items[extents->count - 1] : NULL;

    if (last && last->exists == !!exists && last->offset + last->length == offset) {
        last->length += length;
        return 0;
    }
    if (extents->count == extents->capacity) {
        size_t capacity = extents->capacity ? 2 * extents->capacity : 64;
        struct extent *items = realloc(extents->items, capacity * sizeof *items);
        if (!items)
            return -ENOMEM;
        extents->items = items;
        extents->capacity = capacity;
    }
    extents->items[extents->count++] = (struct extent){offset, length, !!exists};
    return 0;
}
