"""What is open: file handles, the images that they share, growth and freshness.

Owns which librbd image serves which open file, in which mode, who may write to it, how long it is
for its users, and what happens to it when the cluster changes behind it. It must not know the
kernel's requests (fuse/), nor who remembers open files for the next server: it states what it
needs of that as a protocol (keeping), which server/keeper_link implements.

Locks, in the order in which they are taken:

1. ``HandleTable._quiesced``, an event for each image that moves: whoever opens or closes a file of
   it waits there, before anything else.
2. ``SharedImage._changing``: taken while the librbd image is opened, replaced or closed. It is held
   over the whole of quiesced(), and by nobody who waits for a request.
3. ``SharedImage.gate``: every request passes it. Freezing waits for those that have passed, so a
   request must not pass it twice, and whoever holds ``_changing`` may freeze it but not pass it.
4. ``_Learnt.learning`` of an image's holes: one task learns the extents from librbd at a time.
5. ``Growth._resizing``: one resize of a growing image at a time, inside the gate for a write.
   It is not held over the write itself, whose end a trim nevertheless must not cut off: so
   written_up_to() notes the end before it waits for the lock, and the trim looks once it has it.
6. ``Timestamps._turns``, a lock for each image: one stamp of what was written at a time. No other
   is taken under it.
"""
