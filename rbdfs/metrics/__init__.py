"""The meters of a mount, as Prometheus reads them.

Owns the names and labels of what is exposed, and the threads that answer who scrapes: one for the
listener, and one for each connection. It is given meters to read, and must not know the server that
counts in them, nor Trio, nor Ceph: so it answers while all of these wait. It needs
prometheus_client, the extra ``rbdfs[metrics]``, and nothing imports it where nobody asks for
metrics. Locks, none of which is taken while another is held but the turn's: those of the
connections being answered (endpoint) and of who waits for an answer (shared_answers), held for a
few instructions, and the turn to make one (shared_answers), held for as long as that takes.
"""
