"""A process that serves one mount: it connects, takes over, runs and ends.

Owns the order in which a mount is put together and taken apart (lifecycle), what is mounted (root)
and which data path serves it (data_paths), serving and how it ends (run), what comes between the
death of one server and the first answer of the next (takeover), and the link to the keeper. And
what it tells of itself: its status, what waits for the cluster (waiting), how long its main thread
lets others wait (lag), what each of its tasks does (task_tree), and the meters that it counts in,
with the gauges that are written into them. It must not know how a request is answered: that is
fuse/ and what lies below. One lock, of keeper_link: one message to the keeper at a time.
"""
