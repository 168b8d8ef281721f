# The connection to a cluster, and a pool's namespace in it.


cdef class Client:
    """One client of a cluster, configured in QEMU's order: the id, the file, each setting in order.

    `conf` names the configuration file, which must be there then; None tries the default ones.
    Raises OSError; nothing is sent before connect().
    """

    cdef c_rados.rados_t cluster
    cdef c_mux.completions completions
    cdef bint connected
    cdef int ioctxs

    def __cinit__(self):
        self.cluster = NULL
        check(-c_mux.completions_init(&self.completions), "eventfd")

    def __dealloc__(self):
        # One that was not closed stays: librbd may have requests of it.
        if self.cluster == NULL:
            c_mux.completions_destroy(&self.completions)

    def __init__(self, id=None, conf=None, settings=(), *, cluster="ceph"):
        cdef bytes name = b"" if id is None else encoded(id, "client id")
        cdef bytes cluster_name = encoded(cluster, "cluster name")
        cdef int result
        if self.cluster != NULL:
            raise RuntimeError("a client is configured once")
        if cluster_name == b"ceph":
            result = c_rados.rados_create(&self.cluster, NULL if id is None else <char *>name)
        else:
            name = b"client." + (name or b"admin")
            result = c_rados.rados_create2(&self.cluster, cluster_name, name, 0)
        if result < 0:
            self.cluster = NULL
            raise error_of(result, f"client {id!r}")
        self._configure(conf, settings)

    cdef int _configure(self, conf, settings) except -1:
        cdef bytes path, key, value
        cdef const char *path_text
        cdef int result
        if conf is None:
            with nogil:
                result = c_rados.rados_conf_read_file(self.cluster, NULL)
            if result != -ENOENT:
                check(result, "default configuration files")
        else:
            path = encoded(conf, "configuration file name")
            path_text = path
            with nogil:
                result = c_rados.rados_conf_read_file(self.cluster, path_text)
            check(result, f"configuration file {os.fspath(conf)!r}")
        for name, text in settings:
            key, value = encoded(name, "option"), encoded(text, f"option {name}")
            # The value may be a secret (key=...): it is in no message.
            check(c_rados.rados_conf_set(self.cluster, key, value), f"option {name!r}")
        return 0

    cdef int _check_open(self) except -1:
        if self.cluster == NULL:
            raise OSError(EBADF, "the client is closed")
        return 0

    def connect(self):
        """Connect; it takes at most client_mount_timeout (300 s by default).

        Whatever an administrator or a predecessor has put on the cluster's map before is in force then,
        a blocklisting for one: monitors may be a step behind each other.
        """
        cdef int result
        self._check_open()
        with nogil:
            result = c_rados.rados_connect(self.cluster)
        check(result, "connect to the cluster")
        self.connected = True
        with nogil:
            result = c_rados.rados_wait_for_latest_osdmap(self.cluster)
        check(result, "latest map of the cluster")

    def fileno(self):
        """A descriptor that is readable while callbacks of the images' aio_* wait for run_callbacks()."""
        return self.completions.event_fd

    def run_callbacks(self):
        """Call the callbacks of the requests that are complete, in the order of their completion.

        What a callback raises is reported as unraisable, and the next one is called.
        """
        cdef c_mux.python_request *request = c_mux.completions_take(&self.completions)
        cdef c_mux.python_request *following
        while request != NULL:
            # The request lives in its completion, which may be gone after this.
            following = request.next
            call_back(request.owner)
            request = following

    def addrs(self):
        """This client's address as the cluster blocklists it: `127.0.0.1:0/NONCE`."""
        cdef char *text = NULL
        self._check_connected()
        check(c_rados.rados_getaddrs(self.cluster, &text), "client address")
        try:
            return decoded(text)
        finally:
            c_rados.rados_buffer_free(text)

    cdef int _check_connected(self) except -1:
        self._check_open()
        if not self.connected:
            raise OSError(EBADF, "the client is not connected")
        return 0

    def open_ioctx(self, pool, namespace=""):
        """The I/O context of a namespace of a pool, by its name or id; ENOENT if there is none."""
        cdef bint by_id = isinstance(pool, int)
        cdef bytes name = b"" if by_id else encoded(pool, "pool name")
        cdef int64_t pool_id = pool if by_id else -1
        cdef bytes part = encoded(namespace, "namespace")
        cdef const char *name_text = name
        cdef Ioctx ioctx = Ioctx.__new__(Ioctx)
        cdef int result
        self._check_connected()
        with nogil:
            if by_id:
                result = c_rados.rados_ioctx_create2(self.cluster, pool_id, &ioctx.ioctx)
            else:
                result = c_rados.rados_ioctx_create(self.cluster, name_text, &ioctx.ioctx)
        if result < 0:
            ioctx.ioctx = NULL
            raise error_of(result, f"pool {pool!r}")
        c_rados.rados_ioctx_set_namespace(ioctx.ioctx, part)
        ioctx.client = self
        ioctx.spec = f"{pool}/{namespace}/" if namespace else f"{pool}/"
        self.ioctxs += 1
        return ioctx

    def close(self):
        """Disconnect; RuntimeError while an ioctx is open.  Callbacks that still wait are called."""
        if self.ioctxs:
            raise RuntimeError(f"{self.ioctxs} ioctx open")
        cdef c_rados.rados_t cluster = self.cluster
        self.cluster = NULL
        self.connected = False
        if cluster != NULL:
            self.run_callbacks()
            with nogil:
                c_rados.rados_shutdown(cluster)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


cdef class Ioctx:
    """A pool's namespace, made by Client.open_ioctx()."""

    cdef c_rados.rados_ioctx_t ioctx
    cdef readonly Client client
    cdef readonly str spec
    cdef int images

    def __cinit__(self):
        self.ioctx = NULL

    def set_full_try(self):
        """Have writes of images that are opened from now on fail where a full pool has no room.

        With ENOSPC, or EDQUOT for a quota.  Without it they wait.  librbd hands the flag on to the
        pool that has the data.
        """
        c_rados.rados_set_pool_full_try(self.ioctx)

    def close(self):
        """RuntimeError while an image is open."""
        if self.images:
            raise RuntimeError(f"{self.images} images of {self.spec} open")
        if self.ioctx != NULL:
            c_rados.rados_ioctx_destroy(self.ioctx)
            self.ioctx = NULL
            self.client.ioctxs -= 1

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
