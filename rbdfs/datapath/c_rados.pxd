# cython: language_level=3
from libc.stdint cimport int64_t, uint64_t

cdef extern from "rados/librados.h" nogil:
    ctypedef void *rados_t
    ctypedef void *rados_ioctx_t

    int rados_create(rados_t *cluster, const char *id)
    int rados_create2(rados_t *cluster, const char *name, const char *user, uint64_t flags)
    int rados_conf_read_file(rados_t cluster, const char *path)
    int rados_conf_set(rados_t cluster, const char *option, const char *value)
    int rados_connect(rados_t cluster)
    int rados_wait_for_latest_osdmap(rados_t cluster)
    void rados_shutdown(rados_t cluster)
    int rados_getaddrs(rados_t cluster, char **addrs)
    void rados_buffer_free(char *buf)
    int rados_ioctx_create(rados_t cluster, const char *pool, rados_ioctx_t *ioctx)
    int rados_ioctx_create2(rados_t cluster, int64_t pool_id, rados_ioctx_t *ioctx)
    void rados_ioctx_set_namespace(rados_ioctx_t ioctx, const char *namespace_)
    void rados_set_pool_full_try(rados_ioctx_t ioctx)
    void rados_ioctx_destroy(rados_ioctx_t ioctx)
