"""Ids to what each position may look at: itself and what came before it in its own document.

A window of training data holds the end of one document, the next, and a piece of a third. Masked,
attention stays inside each, and their logits are those of each document alone. The token that ends
a document belongs to it. Positions do not begin anew: rotary angles act by their differences only.

The mask goes to torch's scaled-dot-product attention, whose kernels for masks are slower than the
purely causal ones, and takes B * T * T bytes; without documents to part it is the wrong tool.

Axes: B batch, T time, S time of the keys.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmkit.errors import UsageError

if TYPE_CHECKING:
    from lmkit.tokenizer import Tokenizer

END_OF_DOCUMENT = "<|endoftext|>"


def document_mask(ids_BT: Tensor, end_id: int) -> Tensor:
    """Return which positions see which, bool of (B, 1, T, S); the axis of 1 is for the heads.

    Args:
        ids_BT: int64 token ids.
        end_id: the id that ends a document.
    """
    is_end_BT = (ids_BT == end_id).long()
    document_BT = is_end_BT.cumsum(-1) - is_end_BT  # how many documents ended before
    same_BTS = document_BT.unsqueeze(-1) == document_BT.unsqueeze(-2)
    time_T = torch.arange(ids_BT.shape[-1], device=ids_BT.device)
    return (same_BTS & (time_T.unsqueeze(-1) >= time_T)).unsqueeze(-3)


def last_document(ids: list[int], end_id: int) -> list[int]:
    """What of the ids a masked model sees from the last of them: its document, as far as given."""
    for place in range(len(ids) - 2, -1, -1):
        if ids[place] == end_id:
            return ids[place + 1 :]
    return ids


def end_of_document_id(tokenizer: "Tokenizer", flag: str) -> int:
    """Return the id of ``<|endoftext|>``.

    Raises:
        UsageError: the tokenizer has no such token; names the ``flag`` that needs it.
    """
    if END_OF_DOCUMENT in tokenizer.special_tokens:
        (end_id,) = tokenizer.encode(END_OF_DOCUMENT)
        return end_id
    raise UsageError(
        f"{flag} needs a token that ends documents, and the tokenizer has no {END_OF_DOCUMENT}",
        hint=f"learn the vocabulary with --special_token '{END_OF_DOCUMENT}', or leave {flag} out",
    )
