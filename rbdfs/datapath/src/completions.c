#include "completions.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int completions_init(struct completions *completions)
{
    atomic_init(&completions->last, NULL);
    completions->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return completions->event_fd < 0 ? errno : 0;
}

void completions_destroy(struct completions *completions)
{
    if (completions->event_fd >= 0)
        close(completions->event_fd);
    completions->event_fd = -1;
}

static void push(struct completions *completions, struct python_request *request)
{
    struct python_request *last = atomic_load(&completions->last);
    uint64_t one = 1;

    do
        request->next = last;
    while (!atomic_compare_exchange_weak(&completions->last, &last, request));
    /* Whoever finds the list empty says that it is not. */
    if (!last)
        (void)!write(completions->event_fd, &one, sizeof one);
}

struct python_request *completions_take(struct completions *completions)
{
    struct python_request *taken, *first = NULL;
    uint64_t count;

    /* First: what is pushed after the list was taken makes it readable again. */
    (void)!read(completions->event_fd, &count, sizeof count);
    taken = atomic_exchange(&completions->last, NULL);
    while (taken) {
        struct python_request *next = taken->next;
        taken->next = first;
        first = taken;
        taken = next;
    }
    return first;
}

void on_python_completion(rbd_completion_t handle, void *arg)
{
    struct python_request *request = arg;
    struct open_image *image = request->image;

    request->result = rbd_aio_get_return_value(handle);
    rbd_aio_release(handle);
    /* The request is Python's from here on. The image cannot be closed, nor its client, until the
     * call is over. */
    push(request->completions, request);
    open_image_end_call(image);
}
