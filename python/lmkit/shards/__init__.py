"""Sharded data sets: a folder of token files that many processes make and many read.

    plan.json       what there is to do: the inputs, where they are cut, what decides the bytes
    shard_00017_of_00512.npy                 a token file, with its sidecar .npy.json
    shard_00017_of_00512.docs.npy            where its documents end
    shard_00017_of_00512.receipt.json        says that all of this is whole; written last
    manifest.json   what the whole set holds; written when every shard has its receipt

A shard without a receipt does not exist. `plan`, `receipt` and `manifest` are one file format
each, and need neither torch nor a cluster; shards joined in order are one run without shards, byte
for byte.

    from lmkit.shards import finalize, read_manifest, tokenize_shard
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmkit.shards.data_set import finalize
    from lmkit.shards.manifest import read_manifest
    from lmkit.shards.one_shard import tokenize_shard

__all__ = ["finalize", "read_manifest", "tokenize_shard"]

_LAZY = {
    "finalize": "lmkit.shards.data_set",
    "read_manifest": "lmkit.shards.manifest",
    "tokenize_shard": "lmkit.shards.one_shard",
}


def __getattr__(name: str) -> object:
    """Load what is asked for, so that reading a manifest loads no more than that takes."""
    if name not in _LAZY:
        raise AttributeError(f"module 'lmkit.shards' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
