# cython: language_level=3
from libc.stdint cimport int64_t, uint8_t, uint64_t

from rbdfs.datapath.c_rados cimport rados_ioctx_t

cdef extern from "rbd/librbd.h" nogil:
    ctypedef void *rbd_image_t
    ctypedef void *rbd_completion_t
    ctypedef int (*librbd_progress_fn_t)(uint64_t offset, uint64_t total, void *ptr)

    ctypedef enum rbd_lock_mode_t:
        RBD_LOCK_MODE_EXCLUSIVE

    ctypedef struct rbd_image_watcher_t:
        char *addr
        int64_t id
        uint64_t cookie

    ctypedef enum rbd_config_source_t:
        pass

    ctypedef struct rbd_config_option_t:
        char *name
        char *value
        rbd_config_source_t source

    int rbd_open(rados_ioctx_t io, const char *name, rbd_image_t *image, const char *snap)
    int rbd_open_by_id(rados_ioctx_t io, const char *id, rbd_image_t *image, const char *snap)
    int rbd_open_read_only(rados_ioctx_t io, const char *name, rbd_image_t *image,
                           const char *snap)
    int rbd_open_by_id_read_only(rados_ioctx_t io, const char *id, rbd_image_t *image,
                                 const char *snap)
    int rbd_close(rbd_image_t image)
    int rbd_snap_set_by_id(rbd_image_t image, uint64_t snap_id)

    int rbd_get_size(rbd_image_t image, uint64_t *size)
    int rbd_get_features(rbd_image_t image, uint64_t *features)
    int rbd_get_flags(rbd_image_t image, uint64_t *flags)

    int rbd_resize2(rbd_image_t image, uint64_t size, bint allow_shrink,
                    librbd_progress_fn_t progress, void *arg)
    int rbd_metadata_set(rbd_image_t image, const char *key, const char *value)
    int rbd_metadata_remove(rbd_image_t image, const char *key)
    int rbd_lock_acquire(rbd_image_t image, rbd_lock_mode_t mode)
    int rbd_is_exclusive_lock_owner(rbd_image_t image, int *is_owner)
    int rbd_watchers_list(rbd_image_t image, rbd_image_watcher_t *watchers, size_t *count)
    void rbd_watchers_list_cleanup(rbd_image_watcher_t *watchers, size_t count)
    ssize_t rbd_list_lockers(rbd_image_t image, int *exclusive, char *tag, size_t *tag_length,
                             char *clients, size_t *clients_length,
                             char *cookies, size_t *cookies_length,
                             char *addresses, size_t *addresses_length)
    int rbd_config_image_list(rbd_image_t image, rbd_config_option_t *options, int *count)
    void rbd_config_image_list_cleanup(rbd_config_option_t *options, int count)
    int rbd_diff_iterate2(rbd_image_t image, const char *from_snap, uint64_t offset,
                          uint64_t length, uint8_t include_parent, uint8_t whole_object,
                          int (*callback)(uint64_t, size_t, int, void *) nogil, void *arg)

    int rbd_aio_create_completion(void *arg, void (*callback)(rbd_completion_t, void *) nogil,
                                  rbd_completion_t *completion)
    ssize_t rbd_aio_get_return_value(rbd_completion_t completion)
    void rbd_aio_release(rbd_completion_t completion)
    int rbd_aio_read(rbd_image_t image, uint64_t offset, size_t length, char *data,
                     rbd_completion_t completion)
    int rbd_aio_write(rbd_image_t image, uint64_t offset, size_t length, const char *data,
                      rbd_completion_t completion)
    int rbd_aio_flush(rbd_image_t image, rbd_completion_t completion)
    int rbd_aio_write_zeroes(rbd_image_t image, uint64_t offset, size_t length,
                             rbd_completion_t completion, int zero_flags, int op_flags)
