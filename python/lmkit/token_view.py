"""A text cut into its tokens, for people to look at: as HTML, and as pieces for a terminal.

Colours tell neighbours apart and mean nothing else. What is not text of its own (half a character,
a control character) is shown as escapes, and a space as it is. Imports neither click nor rich.
"""

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmkit.counted import counted

if TYPE_CHECKING:
    from lmkit.tokenizer import Tokenizer

COLOURS = 6
COMMONEST = 20
_SAMPLE = "Hello, world! It costs 12.50 €; 春はあけぼの 😀"


@dataclass(frozen=True)
class Token:
    """One token of a text.

    Attributes:
        id: its id.
        bytes: what it stands for.
        is_special: whether it is a special token.
    """

    id: int
    bytes: bytes
    is_special: bool

    @property
    def text(self) -> str:
        """Its bytes as text; what is no text of its own as escapes, a newline as ``⏎``."""
        return shown(self.bytes)


@dataclass(frozen=True)
class TokenView:
    """A text as a tokenizer cuts it.

    Attributes:
        tokens: the first of them, those to show.
        count: how many there are in all.
        text_bytes: how long the text is, in bytes.
        commonest: the commonest tokens of all, with how often each occurs.
    """

    tokens: list[Token]
    count: int
    text_bytes: int
    commonest: list[tuple[Token, int]]

    @property
    def bytes_per_token(self) -> float:
        """How many bytes of text a token stands for, on average; 0.0 without tokens."""
        return self.text_bytes / self.count if self.count else 0.0


def view(tokenizer: "Tokenizer", text: str, show: int) -> TokenView:
    """``text`` as ``tokenizer`` cuts it, the first ``show`` tokens of it to be shown."""
    ids = tokenizer.encode(text)
    vocab = tokenizer.vocab
    specials = set(tokenizer.special_tokens.values())

    def token(token_id: int) -> Token:
        return Token(token_id, vocab[token_id], token_id in specials)

    counted = sorted(Counter(ids).items(), key=lambda entry: (-entry[1], entry[0]))
    return TokenView(
        [token(token_id) for token_id in ids[:show]],
        len(ids),
        len(text.encode()),
        [(token(token_id), count) for token_id, count in counted[:COMMONEST]],
    )


def shown(token: bytes) -> str:
    """Bytes as something to look at."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in token)
    parts = []
    for character in text:
        if character == "\n":
            parts.append("⏎")
        elif character == "\t":
            parts.append("⇥")
        elif character.isprintable() or character == " ":
            parts.append(character)
        else:
            parts.append(character.encode("unicode_escape").decode())
    return "".join(parts)


def tokenizer_card(tokenizer: "Tokenizer") -> str:
    """A tokenizer as a piece of HTML: its facts, and a sentence cut into tokens."""
    special = ", ".join(tokenizer.special_tokens) or "none"
    facts = [
        ("vocabulary", f"{tokenizer.vocab_size:,}"),
        ("merges", f"{len(tokenizer.merges):,}"),
        ("pattern", tokenizer.pattern),
        ("special tokens", special if len(special) < 200 else special[:200] + "…"),  # noqa: PLR2004
        ("fingerprint", tokenizer.fingerprint[:12]),
    ]
    sample = view(tokenizer, _SAMPLE, 200)
    return (
        f'<div class="lmkit-tokens"><style>{STYLE}</style><strong>Tokenizer</strong>'
        f"{facts_table(facts)}{tokens_html(sample.tokens)}"
        f"<small>{summary(sample)}</small></div>"
    )


def page(title: str, facts: Sequence[tuple[str, str]], seen: TokenView) -> str:
    """A whole page, which needs nothing from elsewhere."""
    more = seen.count - len(seen.tokens)
    rest = f"<p>and {counted(more, 'token')} more, counted and not shown</p>" if more else ""
    rows = "".join(
        f"<tr><td>{one.id}</td><td><span class='t c{place % COLOURS}'>{_escaped(one)}</span></td>"
        f"<td>{count:,}</td><td>{count / seen.count:.2%}</td></tr>"
        for place, (one, count) in enumerate(seen.commonest)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ margin: 0; background: #fff; color: #1a1a1a; font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.3rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #15171a; color: #e8e8e8; }} }}
{STYLE}
</style>
</head>
<body>
<main class="lmkit-tokens">
<h1>{html.escape(title)}</h1>
{facts_table(facts)}
<p><strong>{summary(seen)}</strong></p>
{tokens_html(seen.tokens)}
{rest}
<h2>The commonest tokens</h2>
<table class="counts"><thead><tr><th>id</th><th>token</th><th>count</th><th>share</th></tr></thead>
<tbody>{rows}</tbody></table>
</main>
</body>
</html>
"""


def summary(seen: TokenView) -> str:
    """How long the text is, in one line."""
    return (
        f"{counted(seen.count, 'token')}, {counted(seen.text_bytes, 'byte')}: "
        f"{seen.bytes_per_token:.2f} bytes a token"
    )


def facts_table(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values as an HTML table."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts
    )
    return f'<table class="facts">{rows}</table>'


def tokens_html(tokens: Sequence[Token]) -> str:
    """Tokens one after another, each with its id below and more where the pointer rests."""
    parts = ['<div class="flow">']
    for place, token in enumerate(tokens):
        colour = "special" if token.is_special else f"c{place % COLOURS}"
        hexadecimal = token.bytes.hex(" ")
        title = html.escape(f"id {token.id}: {hexadecimal}", quote=True)
        parts.append(
            f'<span class="t {colour}" title="{title}">{_escaped(token)}<i>{token.id}</i></span>'
        )
        if token.bytes.endswith(b"\n"):
            parts.append("<br>")
    parts.append("</div>")
    return "".join(parts)


def _escaped(token: Token) -> str:
    return html.escape(token.text)


STYLE = """
.lmkit-tokens .flow { line-height: 2.6; overflow-wrap: anywhere; }
.lmkit-tokens .t { display: inline-block; max-width: 100%; white-space: pre-wrap;
  line-height: 1.4; margin: 0 1px; padding: 0 1px; border-radius: 3px; color: #1a1a1a;
  font-family: ui-monospace, Menlo, Consolas, monospace; min-width: .5em; vertical-align: top; }
.lmkit-tokens .t i { display: block; font: 10px/1 system-ui, sans-serif; opacity: .7;
  text-align: center; }
.lmkit-tokens .c0 { background: #ffd6a5; } .lmkit-tokens .c1 { background: #caffbf; }
.lmkit-tokens .c2 { background: #9bf6ff; } .lmkit-tokens .c3 { background: #bdb2ff; }
.lmkit-tokens .c4 { background: #ffc6ff; } .lmkit-tokens .c5 { background: #fdffb6; }
.lmkit-tokens .special { background: #333; color: #fff; }
.lmkit-tokens table { border-collapse: collapse; margin: .5rem 0; }
.lmkit-tokens th, .lmkit-tokens td { text-align: left; padding: .15rem .8rem .15rem 0;
  font-weight: normal; vertical-align: top; overflow-wrap: anywhere; }
.lmkit-tokens .facts th { opacity: .7; white-space: nowrap; }
@media (prefers-color-scheme: dark) {
  .lmkit-tokens .t { color: #f2f2f2; }
  .lmkit-tokens .c0 { background: #6b4a1f; } .lmkit-tokens .c1 { background: #2c5e2a; }
  .lmkit-tokens .c2 { background: #155e69; } .lmkit-tokens .c3 { background: #443a86; }
  .lmkit-tokens .c4 { background: #6d2f6d; } .lmkit-tokens .c5 { background: #5b5d1d; }
  .lmkit-tokens .special { background: #ddd; color: #111; }
}
"""
