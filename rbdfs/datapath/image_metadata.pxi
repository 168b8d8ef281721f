# What an image is, who has it, and what it holds.


cdef class _ImageMetadata(_OpenImage):
    """All that reads an image without its data, and its lock and watch."""

    def size(self):
        """Bytes."""
        return self._value(c_rbd.rbd_get_size, "size of")

    def features(self):
        """The bit mask of its features."""
        return self._value(c_rbd.rbd_get_features, "features of")

    def flags(self):
        """The bit mask of its flags: an invalid object map, an invalid fast-diff."""
        return self._value(c_rbd.rbd_get_flags, "flags of")

    def stat(self):
        """size, obj_size (bytes), num_objs, order, block_name_prefix."""
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef c_rbd.rbd_image_info_t info
        cdef int result
        with nogil:
            result = c_rbd.rbd_stat(rbd, &info, sizeof(info))
        self._end(result, "stat")
        return {
            "size": info.size,
            "obj_size": info.obj_size,
            "num_objs": info.num_objs,
            "order": info.order,
            "block_name_prefix": decoded(info.block_name_prefix),
        }

    def id(self):
        """The image id, which a rename keeps."""
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef char text[4096]
        cdef int result
        with nogil:
            result = c_rbd.rbd_get_id(rbd, text, sizeof(text))
        self._end(result, "id of")
        return decoded(text)

    def get_name(self):
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef char text[8192]
        cdef size_t size = sizeof(text)
        cdef int result
        with nogil:
            result = c_rbd.rbd_get_name(rbd, text, &size)
        self._end(result, "name of")
        return decoded(text)

    def create_timestamp(self):
        """A naive datetime in UTC, as the next three."""
        return self._timestamp(c_rbd.rbd_get_create_timestamp, "timestamp of")

    def access_timestamp(self):
        return self._timestamp(c_rbd.rbd_get_access_timestamp, "timestamp of")

    def modify_timestamp(self):
        return self._timestamp(c_rbd.rbd_get_modify_timestamp, "timestamp of")

    def get_snap_timestamp(self, uint64_t snap_id):
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef timespec value
        cdef int result
        with nogil:
            result = c_rbd.rbd_snap_get_timestamp(rbd, snap_id, &value)
        self._end(result, f"timestamp of snapshot {snap_id} of")
        return moment(&value)

    def list_snaps(self):
        """A list of {id, size, name}."""
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef c_rbd.rbd_snap_info_t *snaps = NULL
        cdef int count = 16, result = -ERANGE
        # librbd says how many there are when there are more; the next call may see yet more.
        while result == -ERANGE:
            free(snaps)
            snaps = <c_rbd.rbd_snap_info_t *>calloc(count + 1, sizeof(c_rbd.rbd_snap_info_t))
            if snaps == NULL:
                result = -ENOMEM
                break
            with nogil:
                result = c_rbd.rbd_snap_list(rbd, snaps, &count)
        try:
            self._end(result, "snapshots of")
            return [
                {"id": snaps[i].id, "size": snaps[i].size, "name": decoded(snaps[i].name)}
                for i in range(result)
            ]
        finally:
            if result >= 0:
                c_rbd.rbd_snap_list_end(snaps)
            free(snaps)

    def lock_acquire(self, mode):
        """Take the exclusive lock (LOCK_MODE_EXCLUSIVE: keep it) until lock_release() or close().

        EROFS if another client holds it in exclusive mode, EBUSY or EAGAIN if it is not to be had.
        """
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef c_rbd.rbd_lock_mode_t lock_mode = mode
        cdef int result
        with nogil:
            result = c_rbd.rbd_lock_acquire(rbd, lock_mode)
        self._end(result, "lock")

    def lock_release(self):
        self._run(c_rbd.rbd_lock_release, "unlock")

    def is_exclusive_lock_owner(self):
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef int owner = 0, result
        with nogil:
            result = c_rbd.rbd_is_exclusive_lock_owner(rbd, &owner)
        self._end(result, "lock owner of")
        return owner == 1

    def lock_get_owners(self):
        """Iterate over {mode, owner}: none or one, the owner as the address of its client."""
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef c_rbd.rbd_lock_mode_t mode
        cdef char *owners[8]
        cdef size_t count = 8
        cdef int result
        with nogil:
            result = c_rbd.rbd_lock_get_owners(rbd, &mode, owners, &count)
        if result == -ENOENT:
            result, count = 0, 0
        self._end(result, "lock owners of")
        found = [{"mode": int(mode), "owner": decoded(owners[i])} for i in range(count)]
        if count:
            c_rbd.rbd_lock_get_owners_cleanup(owners, count)
        return iter(found)

    def watchers_list(self):
        """Iterate over {addr, id, cookie}: the clients that have the image open for writing."""
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef c_rbd.rbd_image_watcher_t *watchers = NULL
        cdef size_t count = 16
        cdef int result = -ERANGE
        while result == -ERANGE:
            free(watchers)
            watchers = <c_rbd.rbd_image_watcher_t *>calloc(
                count, sizeof(c_rbd.rbd_image_watcher_t))
            if watchers == NULL:
                result = -ENOMEM
                break
            with nogil:
                result = c_rbd.rbd_watchers_list(rbd, watchers, &count)
        try:
            self._end(result, "watchers of")
            found = [
                {
                    "addr": decoded(watchers[i].addr),
                    "id": watchers[i].id,
                    "cookie": watchers[i].cookie,
                }
                for i in range(count)
            ]
            c_rbd.rbd_watchers_list_cleanup(watchers, count)
            return iter(found)
        finally:
            free(watchers)

    def update_watch(self, int event_fd):
        """Make an eventfd readable whenever the image's header changes: size, snapshots, features.

        The caller keeps it open until update_unwatch() or close().  One watch at a time.
        """
        cdef c_rbd.rbd_image_t rbd
        cdef int result
        if self.watched:
            raise RuntimeError("the image is watched already")
        rbd = self._begin()
        with nogil:
            result = c_rbd.rbd_update_watch(
                rbd, &self.watch, c_mux.image_updated, <void *><intptr_t>event_fd)
        self._end(result, "watch")
        self.watched = True

    def update_unwatch(self):
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef int result = 0
        with nogil:
            if self.watched:
                result = c_rbd.rbd_update_unwatch(rbd, self.watch)
        self.watched = False
        self._end(result, "unwatch")

    def allocated_extents(self, bint whole_object=True, bint include_parent=True):
        """What was ever written, from one diff of the whole image: bytes of (offset, length, exists).

        Three native 64-bit numbers an extent (`memoryview(...).cast("Q")`), neighbours joined;
        `exists` 0 is an extent that was zeroed.  `whole_object` reports whole objects, and needs no
        look at each object where the image has a valid fast-diff.
        """
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef c_mux.extents found
        cdef uint64_t size = 0
        cdef int result
        found.items, found.count, found.capacity = NULL, 0, 0
        with nogil:
            result = c_rbd.rbd_get_size(rbd, &size)
            if result >= 0 and size:
                result = c_rbd.rbd_diff_iterate2(
                    rbd, NULL, 0, size, include_parent, whole_object, c_mux.extents_add, &found)
        try:
            self._end(result, "extents of")
            return (<char *>found.items)[:found.count * sizeof(c_mux.extent)]
        finally:
            free(found.items)
