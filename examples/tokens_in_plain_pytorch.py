"""A token file of lmkit as the data set of any other PyTorch program.

python examples/tokens_in_plain_pytorch.py my_model_tokens.npy
"""

import sys

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import lmkit


class Windows(Dataset[torch.Tensor]):
    """Pieces of ``length`` tokens and the one that follows, side by side."""

    def __init__(self, path: str, length: int) -> None:
        self.tokens = lmkit.open_tokens(path)  # mapped: nothing is read before it is used
        self.length = length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self.length
        return torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))


windows = Windows(sys.argv[1], length=64)
# The simplest language model there is: a table of what follows what.
table = torch.zeros(int(windows.tokens.max()) + 1, int(windows.tokens.max()) + 1)
table.requires_grad_()
optimizer = torch.optim.Adam([table], lr=0.1)
for step, batch in enumerate(DataLoader(windows, batch_size=32, shuffle=True), 1):
    loss = functional.cross_entropy(table[batch[:, :-1]].flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"batch {step}: {loss:.3f} nats a token")
