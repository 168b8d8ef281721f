"""The first sector of a disk, and a whole guest: it copies itself to the next and powers off.

It shows that a machine has booted from a disk, and can write to it.
"""

from __future__ import annotations

_CODE = bytes.fromhex(
    "31c0 8ed8 8ec0"  # xor ax, ax; mov ds, ax; mov es, ax
    "bb007c"  # mov bx, 0x7c00, which is where the firmware has loaded this
    "b80103"  # mov ax, 0x0301: write one sector
    "b90200"  # mov cx, 2: cylinder 0, the second sector
    "b600"  # mov dh, 0: head 0; the firmware has left the disk in dl
    "cd13"  # int 0x13
    "ba0406 b80020 ef"  # mov dx, 0x604; mov ax, 0x2000; out dx, ax: QEMU's ACPI, to state S5
    "f4 ebfd"  # hlt; jmp to it
)
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
