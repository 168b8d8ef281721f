"""What is mounted: the directory or image that the options name, or what of that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.config.source import Source
from rbdfs.errors import Missing, NotPermitted, UserError
from rbdfs.keeper.estate import Kind
from rbdfs.model.entry import Entry
from rbdfs.model.file_name import FileName, ImageSpec
from rbdfs.names.catalog import POOL_LIST

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.config.mount_options import MountOptions
    from rbdfs.keeper.estate import Estate
    from rbdfs.names.catalog import Catalog


async def find_root(
    cluster: Cluster, catalog: Catalog, options: MountOptions, predecessor: Estate | None
) -> Entry:
    """Return what is mounted: what the server before has mounted, whatever its name is now.

    Raises UserError where something that the options name is not there, or may not be seen.
    """
    if predecessor is not None:
        for record in predecessor.of_kind(Kind.ROOT).values():
            return Entry.from_record(record)
    elif options.data_pool is not None:
        try:
            await cluster.ioctx(options.data_pool)
        except Missing as exc:
            raise UserError(f"-o data_pool: no such pool: {options.data_pool}") from exc
    source = options.source
    try:
        return await _found(catalog, source, look=predecessor is None)
    except NotPermitted as exc:
        raise UserError(f"client.{cluster.user} has no permission to read {source}") from exc
    except OSError as exc:
        raise UserError(f"cannot read {source}: {exc.strerror}") from exc


async def _found(catalog: Catalog, source: Source, *, look: bool) -> Entry:
    """Return the entry that *source* names, if wanted after a *look* at what is in it."""
    if source.pool is None:
        return POOL_LIST
    try:
        root = await catalog.directory(source.pool, source.namespace)
        if source.image is not None:
            return await catalog.find_image(root, source.image)
        if look:
            await catalog.listing(root).item(0)
    except Missing as exc:
        raise UserError(await _missing(catalog, source)) from exc
    return root


async def _missing(catalog: Catalog, source: Source) -> str:
    """Return what there is to say where not all that *source* names is there; raise OSError."""
    assert source.pool is not None
    if not await _is_there(catalog, source.pool):
        return f"no such pool: {Source(source.pool)}"
    directory = Source(source.pool, source.namespace)
    if not await _is_there(catalog, source.pool, source.namespace):
        image = FileName(source.namespace)
        if source.image is None and await _is_there(catalog, source.pool, image=image):
            spec = ImageSpec(source.pool, "", source.namespace)
            return f"{spec} is an image: rbdfs rbd:{spec} FILE mounts it on a regular file"
        return f"no such namespace: {directory}"
    if source.image is None:
        return f"{directory} is there no more"
    image = FileName(source.image.image)
    spec = ImageSpec(source.pool, source.namespace, source.image.image)
    if not await _is_there(catalog, source.pool, source.namespace, image):
        return f"no such image: {spec}"
    return f"no such snapshot: {spec}@{source.image.snap}"


async def _is_there(
    catalog: Catalog, pool: str, namespace: str = "", image: FileName | None = None
) -> bool:
    try:
        root = await catalog.directory(pool, namespace)
        if image is not None:
            await catalog.find_image(root, image)
    except Missing:
        return False
    return True
