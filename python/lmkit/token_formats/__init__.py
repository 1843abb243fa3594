"""Token files of lmkit and of other tools, and the ways between them.

    npy, bin     lmkit's own, with a sidecar; document ends beside it in NAME.docs.npy
    nanogpt      uint16 ids alone, as nanoGPT's prepare.py writes them
    llmc         a header of 256 words, then uint16 or uint32 ids: llm.c, modded-nanogpt
    megatron     NAME.bin with the ids and NAME.idx with the documents: Megatron-LM's IndexedDataset
    shards       a folder that `lmkit tokenize --shards` made (read only)
    text         what the ids stand for (written only)

`convert` streams one into another: a block of ids at a time, every id checked against what the
target can hold, and nothing of the target in place before all of it is written.
"""

from lmkit.token_formats.convert import convert
from lmkit.token_formats.detect import READ, WRITTEN, source_format, target_format

__all__ = ["READ", "WRITTEN", "convert", "source_format", "target_format"]
