"""The cluster room: Dask hands out shards and brings back what became of them.

Dask decides who does what and does it again where a worker is lost; that files are whole and never
doubled is the business of :mod:`lmkit.shards`. Nothing outside this package imports it at module
level: it loads `distributed` (the extra ``cluster``).
"""
