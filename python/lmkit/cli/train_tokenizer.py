"""`lmkit train-tokenizer`: text, or counts of text, to a tokenizer folder."""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import click

from lmkit import _core
from lmkit.cli.learning_options import learning_options
from lmkit.cli.options import Command
from lmkit.cli.progress import Callback, progress_bar
from lmkit.cli.tokenizer_options import SLOW
from lmkit.cli.vocabulary_report import print_report, printable
from lmkit.counted import counted
from lmkit.errors import UsageError
from lmkit.tokenizer import Tokenizer, save_native
from lmkit.train_tokenizer import Learning, Report, check_counts_path, pruned, report

_NAMED_AT_MOST = 3


@click.command(cls=Command)
@learning_options
def command(
    *,
    data_path: tuple[str, ...],
    errors: str,
    text_field: str | None,
    output_path: str | None,
    save_counts: str | None,
    special_token: tuple[str, ...],
    no_special_tokens: bool,
    extend: str | None,
    reports: bool,
    held_out: tuple[str, ...],
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401 - those of Learning, passed on
) -> None:
    """Learn a vocabulary from text: TEXT to a tokenizer folder.

    The folder holds vocab.json and merges.txt (GPT-2 style), tokenizer.json (Hugging Face) and
    lmkit.json. Text with fewer merges than asked gives a smaller vocabulary.

    \b
    Examples:
      lmkit train-tokenizer --data_path raw_text.txt --vocab_size 10000 --output_path tokenizer/
      zcat books.gz | lmkit train-tokenizer --data_path - --output_path tokenizer/
      lmkit train-tokenizer --data_path part1/ --save_counts part1.counts
      lmkit train-tokenizer --from_counts part1.counts --from_counts part2.counts \\
          --vocab_size 32000 --output_path tokenizer/
    """  # noqa: D301 - \b is click's mark for lines to keep
    _check(data_path, options["from_counts"], output_path, save_counts)
    _check_report(held_out, output_path, reports=reports)
    if special_token and no_special_tokens:
        raise UsageError("--special_token and --no_special_tokens exclude each other")
    learner = Learning(
        special_tokens=(special_token or None) if not no_special_tokens else (),
        extend=None if extend is None else Tokenizer.load(extend)._native,
        holds_out=reports and not held_out,
        **options,
    ).learner()
    files, size = learner.plan(data_path, text_field, output_path, force)
    if save_counts is not None:
        check_counts_path(save_counts, force=force)
    asked: int = options["vocab_size"]
    if dry_run:
        _say_plan(files, size, asked, output_path, save_counts, as_json=as_json, quiet=quiet)
        return
    run = _Run(learner, reports=reports, quiet=quiet)
    counts = run.count(
        data_path, errors, text_field, [path for path in (output_path, save_counts) if path]
    )
    if save_counts is not None:
        run.save_counts(counts, save_counts)
    if held_out and output_path is not None:
        run.hold_out(counts, held_out, errors, text_field)
    if output_path is not None:
        run.learn(counts, output_path, asked, force=force)
    run.tell(as_json=as_json)


class _Run:
    """The steps, each timed, and what there is to tell of them at the end."""

    def __init__(self, learner: _core.Learner, *, reports: bool, quiet: bool) -> None:
        self.learner = learner
        self.reports = reports
        self.quiet = quiet
        self.result: dict[str, object] = {}
        self.notes: list[str] = []
        self.sentence = ""
        self.report: Report | None = None
        self.phases: dict[str, float] = {}
        self._counted = ""
        self._start = self._last = time.perf_counter()

    def count(
        self, paths: Sequence[str], errors: str, text_field: str | None, leave_out: list[str]
    ) -> _core.Counts:
        """Count the text; what was dropped of it is said before anything is learned."""
        with self._progress() as progress:
            counts = self.learner.count_files(paths, errors, text_field, leave_out, progress)
        self._end_of("count")
        if (dropped := pruned(counts)) is not None:
            print(f"note: {dropped}", file=sys.stderr, flush=True)
        if counts.not_text:
            self.notes.append(_passed_over(counts))
        if counts.null_rows:
            self.notes.append(f"passed over {counted(counts.null_rows, 'row')} without text (null)")
        self._counted = counted(counts.pretokens, "pretoken")
        self.result |= _as_json(counts)
        return counts

    def save_counts(self, counts: _core.Counts, path: str) -> None:
        """Save what was counted."""
        self.learner.save_counts(counts, path)
        self._end_of("save_counts")
        self.result["save_counts"] = path
        self.sentence = f"Counted {self._counted} in {self.seconds:.1f} s into {path}"

    def hold_out(
        self, counts: _core.Counts, paths: Sequence[str], errors: str, text_field: str | None
    ) -> None:
        """Count the text to report on."""
        with self._progress() as progress:
            self.learner.hold_out(counts, paths, errors, text_field, progress)
        self._end_of("hold_out")

    def learn(self, counts: _core.Counts, path: str, asked: int, *, force: bool) -> None:
        """Learn the vocabulary and save it."""
        with self._progress() as progress:
            tokenizer = self.learner.learn(counts, progress)
        self._end_of("merge")
        left_out = save_native(tokenizer, path, "lmkit", force=force)
        self._end_of("save")
        merges = len(tokenizer.merges())
        self.result |= {
            "output_path": path,
            "vocab_size": tokenizer.vocab_size,
            "asked": asked,
            "merges": merges,
            "special_tokens": tokenizer.special_tokens(),
            "pattern": tokenizer.pattern,
            "fingerprint": tokenizer.fingerprint,
        }
        self.sentence = (
            f"Learned {counted(merges, 'merge')} from {self._counted} in {self.seconds:.1f} s: "
            f"{tokenizer.vocab_size:,} tokens in {path}"
        )
        if tokenizer.vocab_size < asked:
            self.notes.append(
                f"the text has no more to merge at {tokenizer.vocab_size:,} tokens; "
                f"{asked:,} were asked for"
            )
        if left_out is not None:
            self.notes.append(left_out)
        if not tokenizer.has_own_scanner:
            self.notes.append(SLOW)
        if self.reports:
            self.report = report(self.learner, tokenizer, counts)
            self.result["report"] = printable(self.report)

    def tell(self, *, as_json: bool) -> None:
        """Print the result on stdout, and the notes on stderr."""
        if as_json:
            more = {"seconds": round(self.seconds, 3), "phases": self.phases}
            print(json.dumps(self.result | more))
        elif not self.quiet:
            print(self.sentence)
            if self.report is not None:
                print_report(self.report)
        for note in self.notes:
            print(f"note: {note}", file=sys.stderr)

    @property
    def seconds(self) -> float:
        """How long all steps so far took."""
        return self._last - self._start

    def _progress(self) -> AbstractContextManager[Callback | None]:
        return progress_bar(("Counting", "Merging"), ("B", "merges"), quiet=self.quiet)

    def _end_of(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[phase], self._last = round(now - self._last, 4), now


def _check(
    data_path: tuple[str, ...],
    from_counts: tuple[str, ...],
    output_path: str | None,
    save_counts: str | None,
) -> None:
    if not data_path and not from_counts:
        raise UsageError(
            "nothing to learn from: pass --data_path, or counts with --from_counts",
            hint="lmkit train-tokenizer --help has an example",
        )
    if output_path is None and save_counts is None:
        raise UsageError(
            "nowhere to write to: pass --output_path, or --save_counts to count alone",
            hint="lmkit train-tokenizer --help has an example",
        )


def _check_report(held_out: tuple[str, ...], output_path: str | None, *, reports: bool) -> None:
    if held_out and not reports:
        raise UsageError("--held_out has no effect without --report")
    if reports and output_path is None:
        raise UsageError("--report has no effect without --output_path: nothing is learned")


def _as_json(counts: _core.Counts) -> dict[str, object]:
    pretokens, text_bytes, lowest_kept = counts.pruned
    dropped = {"pretokens": pretokens, "text_bytes": text_bytes, "lowest_kept": lowest_kept}
    return {
        "pretokens": counts.pretokens,
        "text_bytes": counts.text_bytes,
        "pruned": dropped,
        "not_text": [os.fspath(path) for path in counts.not_text],
        "null_rows": counts.null_rows,
    }


def _passed_over(counts: _core.Counts) -> str:
    named = ", ".join(os.fspath(path) for path in counts.not_text[:_NAMED_AT_MOST])
    more = len(counts.not_text) - _NAMED_AT_MOST
    others = f" and {more:,} more" if more > 0 else ""
    return f"passed over what holds no text: {named}{others}"


def _say_plan(
    files: int,
    size: int,
    asked: int,
    output_path: str | None,
    save_counts: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    plan: dict[str, object] = {"files": files, "bytes": size}
    amount = _amount(files, size)
    if output_path is None:
        plan |= {"save_counts": save_counts}
        sentence = f"Would count {amount} into {save_counts}"
    else:
        plan |= {"vocab_size": asked, "output_path": output_path}
        sentence = f"Would learn {asked:,} tokens from {amount} into {output_path}"
    _print(plan, sentence, as_json=as_json, quiet=quiet)


def _amount(files: int, size: int) -> str:
    if not files:
        return "saved counts"
    if not size:
        return "standard input"
    return f"{counted(files, 'file')} of {size / 1e6:,.1f} MB"


def _print(result: dict[str, object], sentence: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        print(sentence)
