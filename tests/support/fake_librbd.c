/* librados and librbd, as far as the data path uses them, in memory and under the test's command.
 *
 * Each call may be made to fail (fake_result, fake_submit_result), and requests may be held until
 * fake_release(). Completions run on a thread of their own, as librbd's do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { IMAGE_BYTES = 8 << 20 };
enum call { CALL_READ, CALL_WRITE, CALL_FLUSH, CALL_ZERO, CALL_OPEN, CALL_OTHER, CALLS };

struct completion {
    struct completion *next;
    rbd_callback_t callback;
    void *arg;
    ssize_t result;
    enum call call;
    uint64_t offset;
    size_t length;
    char *target;
    const char *source;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_once_t started = PTHREAD_ONCE_INIT;
static struct completion *first, **last = &first;
static bool held;
static int results[CALLS], submit_results[CALLS];
static unsigned counts[CALLS];
static char content[IMAGE_BYTES];

/* Control. */

void fake_reset(void)
{
    pthread_mutex_lock(&lock);
    held = false;
    memset(results, 0, sizeof results);
    memset(submit_results, 0, sizeof submit_results);
    memset(counts, 0, sizeof counts);
    memset(content, 0, sizeof content);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void fake_hold(int on)
{
    pthread_mutex_lock(&lock);
    held = on;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* What requests of this kind complete with, and what their submission returns: 0 or a negative errno. */
void fake_result(int call, int result, int submit_result)
{
    pthread_mutex_lock(&lock);
    results[call] = result;
    submit_results[call] = submit_result;
    pthread_mutex_unlock(&lock);
}

/* Let what was held go, and wait without letting the caller's GIL go. */
void fake_release_and_wait(int ms)
{
    fake_hold(0);
    usleep(ms * 1000);
}

unsigned fake_count(int call)
{
    unsigned count;

    pthread_mutex_lock(&lock);
    count = counts[call];
    pthread_mutex_unlock(&lock);
    return count;
}

/* Requests. */

static void carry_out(struct completion *done)
{
    pthread_mutex_lock(&lock);
    done->result = results[done->call];
    if (!done->result && done->call == CALL_READ) {
        memcpy(done->target, content + done->offset, done->length);
        done->result = (ssize_t)done->length;
    } else if (!done->result && done->call == CALL_WRITE) {
        memcpy(content + done->offset, done->source, done->length);
    } else if (!done->result && done->call == CALL_ZERO) {
        memset(content + done->offset, 0, done->length);
    }
    pthread_mutex_unlock(&lock);
    done->callback(done, done->arg);
}

static void *run(void *unused)
{
    (void)unused;
    for (;;) {
        struct completion *done;

        pthread_mutex_lock(&lock);
        while (held || !first)
            pthread_cond_wait(&changed, &lock);
        done = first;
        first = done->next;
        if (!first)
            last = &first;
        pthread_mutex_unlock(&lock);
        carry_out(done);
    }
    return NULL;
}

static void start(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, run, NULL);
    pthread_detach(thread);
}

static int submit(struct completion *completion, enum call call, uint64_t offset, size_t length,
                  char *target, const char *source)
{
    int result;

    pthread_once(&started, start);
    completion->call = call;
    completion->offset = offset;
    completion->length = length;
    completion->target = target;
    completion->source = source;
    pthread_mutex_lock(&lock);
    counts[call]++;
    result = submit_results[call];
    if (!result && offset + length > IMAGE_BYTES)
        result = -EINVAL;
    if (!result) {
        completion->next = NULL;
        *last = completion;
        last = &completion->next;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int rbd_aio_create_completion(void *arg, rbd_callback_t callback, rbd_completion_t *completion)
{
    struct completion *made = calloc(1, sizeof *made);

    made->arg = arg;
    made->callback = callback;
    *completion = made;
    return 0;
}

ssize_t rbd_aio_get_return_value(rbd_completion_t completion)
{
    return ((struct completion *)completion)->result;
}

void rbd_aio_release(rbd_completion_t completion)
{
    free(completion);
}

int rbd_aio_read(rbd_image_t image, uint64_t offset, size_t length, char *data,
                 rbd_completion_t completion)
{
    (void)image;
    return submit(completion, CALL_READ, offset, length, data, NULL);
}

int rbd_aio_write(rbd_image_t image, uint64_t offset, size_t length, const char *data,
                  rbd_completion_t completion)
{
    (void)image;
    return submit(completion, CALL_WRITE, offset, length, NULL, data);
}

int rbd_aio_flush(rbd_image_t image, rbd_completion_t completion)
{
    (void)image;
    return submit(completion, CALL_FLUSH, 0, 0, NULL, NULL);
}

int rbd_aio_write_zeroes(rbd_image_t image, uint64_t offset, size_t length,
                         rbd_completion_t completion, int zero_flags, int op_flags)
{
    (void)image, (void)zero_flags, (void)op_flags;
    return submit(completion, CALL_ZERO, offset, length, NULL, NULL);
}

/* Calls that block. */

static int result_of(enum call call)
{
    int result;

    pthread_mutex_lock(&lock);
    counts[call]++;
    result = results[call];
    pthread_mutex_unlock(&lock);
    return result;
}

static int open_image(rbd_image_t *image)
{
    *image = content;
    return result_of(CALL_OPEN);
}

int rbd_open(rados_ioctx_t io, const char *name, rbd_image_t *image, const char *snap)
{
    (void)io, (void)name, (void)snap;
    return open_image(image);
}

int rbd_open_by_id(rados_ioctx_t io, const char *id, rbd_image_t *image, const char *snap)
{
    return rbd_open(io, id, image, snap);
}

int rbd_open_read_only(rados_ioctx_t io, const char *name, rbd_image_t *image, const char *snap)
{
    return rbd_open(io, name, image, snap);
}

int rbd_open_by_id_read_only(rados_ioctx_t io, const char *id, rbd_image_t *image,
                             const char *snap)
{
    return rbd_open(io, id, image, snap);
}

int rbd_close(rbd_image_t image)
{
    (void)image;
    return 0;
}

int rbd_snap_set_by_id(rbd_image_t image, uint64_t snap_id)
{
    (void)image, (void)snap_id;
    return result_of(CALL_OTHER);
}

static int number(uint64_t value, uint64_t *out)
{
    *out = value;
    return result_of(CALL_OTHER);
}

int rbd_get_size(rbd_image_t image, uint64_t *size)
{
    (void)image;
    return number(IMAGE_BYTES, size);
}

int rbd_get_features(rbd_image_t image, uint64_t *features)
{
    (void)image;
    return number(0, features);
}

int rbd_get_flags(rbd_image_t image, uint64_t *flags)
{
    (void)image;
    return number(0, flags);
}

int rbd_resize2(rbd_image_t image, uint64_t size, bool allow_shrink, librbd_progress_fn_t progress,
                void *arg)
{
    (void)image, (void)size, (void)allow_shrink, (void)progress, (void)arg;
    return result_of(CALL_OTHER);
}

int rbd_metadata_set(rbd_image_t image, const char *key, const char *value)
{
    (void)image, (void)key, (void)value;
    return result_of(CALL_OTHER);
}

int rbd_metadata_remove(rbd_image_t image, const char *key)
{
    (void)image, (void)key;
    return result_of(CALL_OTHER);
}

int rbd_lock_acquire(rbd_image_t image, rbd_lock_mode_t mode)
{
    (void)image, (void)mode;
    return result_of(CALL_OTHER);
}

int rbd_is_exclusive_lock_owner(rbd_image_t image, int *is_owner)
{
    (void)image;
    *is_owner = 1;
    return result_of(CALL_OTHER);
}

int rbd_watchers_list(rbd_image_t image, rbd_image_watcher_t *watchers, size_t *count)
{
    (void)image, (void)watchers;
    *count = 0;
    return result_of(CALL_OTHER);
}

void rbd_watchers_list_cleanup(rbd_image_watcher_t *watchers, size_t count)
{
    (void)watchers, (void)count;
}

int rbd_config_image_list(rbd_image_t image, rbd_config_option_t *options, int *count)
{
    (void)image, (void)options;
    *count = 0;
    return result_of(CALL_OTHER);
}

void rbd_config_image_list_cleanup(rbd_config_option_t *options, int count)
{
    (void)options, (void)count;
}

ssize_t rbd_list_lockers(rbd_image_t image, int *exclusive, char *tag, size_t *tag_length,
                         char *clients, size_t *clients_length, char *cookies,
                         size_t *cookies_length, char *addresses, size_t *addresses_length)
{
    (void)image, (void)tag, (void)clients, (void)cookies, (void)addresses;
    *exclusive = 0;
    *tag_length = *clients_length = *cookies_length = *addresses_length = 0;
    return result_of(CALL_OTHER);
}

int rbd_diff_iterate2(rbd_image_t image, const char *from, uint64_t offset, uint64_t length,
                      uint8_t include_parent, uint8_t whole_object,
                      int (*callback)(uint64_t, size_t, int, void *), void *arg)
{
    (void)image, (void)from, (void)include_parent, (void)whole_object;
    callback(offset, length, 1, arg);
    return result_of(CALL_OTHER);
}

/* librados: a client that is connected to nothing. */

static char cluster;

int rados_create(rados_t *created, const char *const id)
{
    (void)id;
    *created = &cluster;
    return 0;
}

int rados_create2(rados_t *created, const char *const name, const char *const user, uint64_t flags)
{
    (void)name, (void)flags;
    return rados_create(created, user);
}

int rados_conf_read_file(rados_t which, const char *path)
{
    (void)which, (void)path;
    return 0;
}

int rados_conf_set(rados_t which, const char *option, const char *value)
{
    (void)which, (void)option, (void)value;
    return 0;
}

int rados_connect(rados_t which)
{
    (void)which;
    return 0;
}

void rados_shutdown(rados_t which)
{
    (void)which;
}

int rados_getaddrs(rados_t which, char **addrs)
{
    (void)which;
    *addrs = strdup("127.0.0.1:0/1");
    return 0;
}

void rados_buffer_free(char *buffer)
{
    free(buffer);
}

int rados_wait_for_latest_osdmap(rados_t which)
{
    (void)which;
    return result_of(CALL_OTHER);
}

int rados_ioctx_create(rados_t which, const char *pool, rados_ioctx_t *ioctx)
{
    (void)which, (void)pool;
    *ioctx = &cluster;
    return 0;
}

int rados_ioctx_create2(rados_t which, int64_t pool, rados_ioctx_t *ioctx)
{
    (void)pool;
    return rados_ioctx_create(which, NULL, ioctx);
}

void rados_ioctx_set_namespace(rados_ioctx_t ioctx, const char *name)
{
    (void)ioctx, (void)name;
}

void rados_set_pool_full_try(rados_ioctx_t ioctx)
{
    (void)ioctx;
}

void rados_ioctx_destroy(rados_ioctx_t ioctx)
{
    (void)ioctx;
}
