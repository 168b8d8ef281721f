"""An image changes its pool, namespace or both while files are open on it.

Owns the steps of a live migration in the order that keeps every reader right (moves, then
executor), what is left of one that was interrupted (inheritance for those of the server before,
interrupted for everybody else's), and the clients that copy. It must not know pyfuse3: rename(2) is
answered by fuse/ when a move says that it has been switched over.

It has no locks of its own. It quiesces an image by quiesced() of files/interplay, which takes each
shared image's ``_changing`` and freezes its gate, and gives both back in the reverse order.
"""
