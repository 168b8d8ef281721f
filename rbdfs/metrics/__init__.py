"""The meters of a mount, as Prometheus reads them.

Owns the names and labels of what is exposed, and the thread that answers whoever scrapes. It is
given meters to read, and must not know the server that counts in them, nor Trio, nor Ceph: so it
answers while all of these wait. It needs prometheus_client, the extra ``rbdfs[metrics]``, and
nothing imports it where nobody asks for metrics. One lock: that of the connections being answered
(endpoint), held for a few instructions.
"""
