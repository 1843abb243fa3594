"""A tokenizer of single bytes with the face of `lmkit.Tokenizer`, for tests of the torch room."""

END = "<|endoftext|>"


class ByteTokenizer:
    """Ids are bytes; 256 is nothing (a gap), 257 the end of text where there is one."""

    def __init__(self, *, with_end: bool = True) -> None:
        self.vocab = {value: bytes([value]) for value in range(256)}
        self.special_tokens = [END] if with_end else []
        if with_end:
            self.vocab[257] = END.encode()

    @property
    def vocab_size(self) -> int:
        return max(self.vocab) + 1

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(END) if self.special_tokens else [text]):
            ids += [257] * (number > 0) + list(part.encode())
        return ids

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.vocab[token_id] for token_id in ids)
