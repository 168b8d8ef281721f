"""What `rbdfs stat` is told of a file: what the cluster has, and what is open of it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rbdfs.files.handle import Use
from rbdfs.model.file_report import encoded_report

if TYPE_CHECKING:
    from rbdfs.files.table import HandleTable
    from rbdfs.model.entry import Entry
    from rbdfs.names.image_report import ImageReports


class FileReports:
    """Looks at the files of one mount."""

    def __init__(self, images: ImageReports, handles: HandleTable) -> None:
        self._images = images
        self._handles = handles

    async def report(self, entry: Entry) -> bytes:
        """Return the value of file_report.ATTRIBUTE for *entry*; raise OSError."""
        report = await self._images.report(entry, self._handles.claims.addresses)
        if not entry.is_directory:
            length = self._handles.length(entry)
            report |= {"open": self._open(entry)} | ({} if length is None else {"size": length})
        return encoded_report(report)

    def _open(self, entry: Entry) -> dict[str, Any]:
        """Tell who has the image or snapshot of *entry* open, also by partitions of it."""
        handles = [each for each in self._handles if each.entry.whole_key == entry.whole_key]
        readers = sum(each.use is Use.READ for each in handles)
        errors = [str(each.shared.error.strerror) for each in handles if each.shared.error]
        shared = self._handles.shared(entry)
        return {
            "readers": readers,
            "writers": len(handles) - readers,
            "growing": shared is not None and shared.growth is not None,
            "failed": errors[0] if errors else "",
        }
