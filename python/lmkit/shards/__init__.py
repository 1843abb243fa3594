"""Sharded data sets: a folder of token files that many processes make and many read.

    plan.json       what there is to do: the inputs, where they are cut, what decides the bytes
    shard_00017_of_00512.npy                 a token file, with its sidecar .npy.json
    shard_00017_of_00512.docs.npy            where its documents end
    shard_00017_of_00512.receipt.json        says that all of this is whole; written last
    manifest.json   what the whole set holds; written when every shard has its receipt

A shard without a receipt does not exist. `plan`, `receipt` and `manifest` are one file format
each, and need neither torch nor a cluster; shards joined in order are one run without shards, byte
for byte.
"""
