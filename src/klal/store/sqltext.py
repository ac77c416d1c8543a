"""SQL text taken apart and put together: the user's words into tokens, and tokens into SQLite's words.

Only what SQLite has accepted is taken apart here, so this need not know its grammar: it
finds words, names, literals and matching parentheses, and nothing else.

Law: `read_tokens(lexemes_of(tokens_sql(t))) == t` for every list of tokens that is allowed.

Source:
    Decisions D3 and D11; protocol spec section 10, rule SCH-6. SQLite's tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from klal.errors import UnsupportedError, UsageError
from klal.model.schema import Value, fold
from klal.model.tokens import Grammar, Token, Tokens
from klal.store.layout import quote

_LEXEME = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))
  | (?P<blob>[xX]'(?:[0-9a-fA-F]{2})*')
  | (?P<text>'(?:[^']|'')*')
  | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
  | (?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
  | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
  | (?P<operator>->>|\|\||->|<<|>>|<=|>=|<>|!=|==|[-+*/%&|~<>=(),.;])
  | (?P<other>.)
    """,
    re.DOTALL | re.VERBOSE,
)


class Lexeme(NamedTuple):
    """One piece of SQL text: what kind it is and how it was written."""

    kind: str
    text: str

    @property
    def upper(self) -> str:
        """The keyword that a bare word may be; "" for everything else."""
        return self.text.upper() if self.kind == "word" else ""

    def is_operator(self, text: str) -> bool:
        """True for this operator."""
        return self.kind == "operator" and self.text == text

    @property
    def name(self) -> str | None:
        """The name that this stands for, its quotes taken off; None where it is none."""
        if self.kind == "word":
            return self.text
        if self.kind == "quoted":
            closing = self.text[-1]
            return self.text[1:-1].replace(closing * 2, closing) if closing != "]" else self.text[1:-1]
        if self.kind == "text":  # SQLite takes 'name' for a name where only a name can stand.
            return self.text[1:-1].replace("''", "'")
        return None


def lexemes_of(sql: str) -> list[Lexeme]:
    """Return the pieces of SQL text, without spaces and comments."""
    return [Lexeme(str(match.lastgroup), match[0]) for match in _LEXEME.finditer(sql) if match.lastgroup != "space"]


def first_word(sql: str) -> str:
    """Return the statement's first keyword, upper case, or "" when it has none."""
    for match in _LEXEME.finditer(sql):
        if match.lastgroup != "space":
            return match[0].upper() if match.lastgroup == "word" else ""
    return ""


def is_blank(sql: str) -> bool:
    """True when SQL text holds no statement: only spaces, comments and semicolons."""
    return all(lexeme.is_operator(";") for lexeme in lexemes_of(sql))


def words_of(sql: str) -> list[str]:
    """Return the bare words of a statement, upper case, without strings, quoted names and comments."""
    return [lexeme.upper for lexeme in lexemes_of(sql) if lexeme.kind == "word"]


def savepoint_name(sql: str) -> str:
    """Return the name that a SAVEPOINT, RELEASE or ROLLBACK TO ends with, folded."""
    names = [lexeme.name for lexeme in lexemes_of(sql) if not lexeme.is_operator(";")]
    return fold(names[-1] or "")


class Reader:
    """Goes through lexemes one by one."""

    def __init__(self, lexemes: Sequence[Lexeme]) -> None:
        self._lexemes = lexemes
        self._at = 0

    def peek(self, ahead: int = 0) -> Lexeme:
        """Return a lexeme to come; a `;` beyond the end."""
        at = self._at + ahead
        return self._lexemes[at] if at < len(self._lexemes) else Lexeme("operator", ";")

    def skip(self, *words: str) -> bool:
        """Pass over these words if they come next, all of them; True if they did."""
        if all(self.peek(ahead).upper == word for ahead, word in enumerate(words)):
            self._at += len(words)
            return True
        return False

    def take(self) -> Lexeme:
        """Return the next lexeme and pass over it."""
        lexeme = self.peek()
        self._at += 1
        return lexeme

    def take_name(self) -> str:
        """Return the next name, a schema's name before it left out.

        Raises:
            UsageError: No name stands there.
        """
        name = self.take().name
        if self.peek().is_operator("."):
            self.take()
            name = self.take().name
        if name is None:
            raise UsageError(f"near {self.peek(-1).text!r:.40}: want a name")
        return name

    def take_group(self) -> list[Lexeme]:
        """Return what lies between the parenthesis that comes next and the one that closes it."""
        group: list[Lexeme] = []
        depth = 0
        while True:
            lexeme = self.take()
            depth += lexeme.is_operator("(") - lexeme.is_operator(")")
            if depth == 0 or lexeme.is_operator(";"):
                return group[1:]
            group.append(lexeme)

    def rest(self) -> list[Lexeme]:
        """Return all that is left, without a last semicolon."""
        left = list(self._lexemes[self._at :])
        self._at = len(self._lexemes)
        while left and left[-1].is_operator(";"):
            left.pop()
        return left

    @property
    def is_done(self) -> bool:
        """True when nothing is left."""
        return self._at >= len(self._lexemes)


def split(lexemes: Sequence[Lexeme]) -> Iterator[list[Lexeme]]:
    """Yield the stretches between commas that stand in no parentheses."""
    stretch: list[Lexeme] = []
    depth = 0
    for lexeme in lexemes:
        depth += lexeme.is_operator("(") - lexeme.is_operator(")")
        if depth == 0 and lexeme.is_operator(","):
            yield stretch
            stretch = []
        else:
            stretch.append(lexeme)
    yield stretch


def read_tokens(
    lexemes: Sequence[Lexeme], grammar: Grammar, what: str, column_of: Callable[[str], Any] | None = None
) -> Tokens:
    """Return an expression, or a query, as tokens.

    Args:
        what: The noun for an error's sentence.
        column_of: What a column's name becomes, or None for a name that is no column; left out for a query.

    Raises:
        UsageError: A word, function or operator that is not replicated.
    """
    tokens: list[Token] = []
    for at, lexeme in enumerate(lexemes):
        is_called = at + 1 < len(lexemes) and lexemes[at + 1].is_operator("(")
        tokens.append(_token(lexeme, tokens, grammar, what, column_of, is_called=is_called))
    return tuple(tokens)


def bare(tokens: Tokens) -> Tokens:
    """Return an expression without parentheses around the whole of it."""
    while tokens and tokens[0] == Token("o", "("):
        depth = 0
        for at, token in enumerate(tokens):
            depth += (token == Token("o", "(")) - (token == Token("o", ")"))
            if depth == 0 and at < len(tokens) - 1:
                return tokens
        tokens = tokens[1:-1]
    return tokens


def _token(
    lexeme: Lexeme,
    before: list[Token],
    grammar: Grammar,
    what: str,
    column_of: Callable[[str], Any] | None,
    *,
    is_called: bool,
) -> Token:
    if lexeme.kind == "operator" and lexeme.text in grammar.operators:
        return Token("o", lexeme.text)
    if lexeme.kind in ("number", "text", "blob"):
        return Token("v", _literal(lexeme, what))
    name = lexeme.name
    if name is None:
        raise UnsupportedError(f"{what}: {lexeme.text!r:.40} cannot be replicated in it")
    is_type_or_collation = bool(before) and before[-1] in (Token("w", "COLLATE"), Token("w", "AS"))
    if lexeme.kind == "word" and not is_type_or_collation:
        if is_called and lexeme.text.lower() in grammar.functions:
            return Token("f", lexeme.text.lower())
        if lexeme.upper in grammar.words:
            return Token("w", lexeme.upper)
    if is_called and not (is_type_or_collation or grammar.has_names):
        raise UnsupportedError(f"{what}: the function {name} is not replicated in it")
    if column_of is None or is_type_or_collation:
        return Token("n", name)
    column = column_of(name)
    if column is None:
        raise UnsupportedError(f"{what}: {name} is no column of the table, and only columns can be named in it")
    return Token("c", column)


def _literal(lexeme: Lexeme, what: str) -> Value:
    if lexeme.kind == "text":
        return lexeme.name
    if lexeme.kind == "blob":
        return bytes.fromhex(lexeme.text[2:-1])
    text = lexeme.text.lower()
    value: int | float = int(text, 16) if text.startswith("0x") else int(text) if text.isdigit() else float(text)
    if isinstance(value, int) and value >= 1 << 63:
        raise UsageError(f"{what}: the number {lexeme.text:.40} has more than 64 bits")
    return value


def tokens_sql(tokens: Tokens, column_name: Callable[[Any], str] | None = None) -> str:
    """Return the SQL of tokens that have been checked.

    Args:
        column_name: The present name of a column, by what its token holds.
    """
    return " ".join(_token_sql(token, column_name) for token in tokens)


def _token_sql(token: Token, column_name: Callable[[Any], str] | None) -> str:
    match token.kind:
        case "v":
            return literal_sql(token.value)
        case "n":
            return quote(token.value)
        case "c":
            assert column_name is not None, "only expressions over one row have columns"
            return quote(column_name(token.value))
    return str(token.value)


def literal_sql(value: Value) -> str:
    """Return a value as a literal of SQL: a text without NUL, a number that is not NaN."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and math.isinf(value):
        return "9e999" if value > 0 else "-9e999"
    return repr(value)


def find_name(names: Sequence[str], name: str) -> str | None:
    """Return that of `names` which SQLite takes for `name`, or None."""
    return next((each for each in names if fold(each) == fold(name)), None)
