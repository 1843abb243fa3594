"""How far the shards of a run are: reports of whoever works on them to one progress line.

Reports may come from several threads, late, or twice, as where a lost worker's shard is done again:
what counts is the last that was said of each shard.
"""

from collections.abc import Callable, Iterable

from lmkit.shards.encode_shard import ShardTask


class Tally:
    """Adds up what is done of some tasks.

    Args:
        tasks: those that are to be done.
        found: how many shards were there before.

    Attributes:
        is_alone: all workers are lost, and new ones are waited for.
    """

    def __init__(
        self,
        tasks: Iterable[ShardTask],
        found: int = 0,
    ) -> None:
        self._bytes = {task.number: task.bytes for task in tasks}
        self._running: dict[int, int] = {}
        self._finished: set[int] = set()
        self._finished_bytes = 0
        self._found = found
        self._total = sum(self._bytes.values())
        self._progress: Callable[[int, int, int], object] | None = None
        self.is_alone = False

    def report_to(self, progress: Callable[[int, int, int], object] | None) -> None:
        """Have ``progress(0, bytes_done, bytes_total)`` called from now on."""
        self._progress = progress

    def running(self, number: int, done: int) -> None:
        """Of shard ``number``, so many bytes are done."""
        if number in self._bytes and number not in self._finished:
            self._running[number] = min(done, self._bytes[number])

    def finished(self, number: int) -> None:
        """Shard ``number`` is whole."""
        if number not in self._finished:
            self._finished.add(number)
            self._running.pop(number, None)
            self._finished_bytes += self._bytes[number]

    def tell(self) -> None:
        """Call the progress callback."""
        if self._progress is not None:
            done = self._finished_bytes + sum(list(self._running.values()))
            self._progress(0, done, self._total)

    def shards(self) -> str:
        """Which part of the shards is there, in words."""
        total = self._found + len(self._bytes)
        told = f"{self._found + len(self._finished):,} of {total:,} shards"
        return f"{told}, all workers lost, waiting for new ones" if self.is_alone else told
