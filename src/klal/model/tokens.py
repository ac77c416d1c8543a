"""Expressions as data: a list of tokens from an allow-list, which is what travels instead of SQL text.

A token is a word, a name, a column, a literal, an operator or a function, and each is spelled
anew wherever it is used: names quoted, literals written out. No token can hold a semicolon,
a comment or a second statement, and what the list as a whole means is left to the one parser
that all replicas share, SQLite's, which is asked under an authorizer. A tree would need a
second parser, and two parsers can disagree on SQL.

Source:
    Protocol spec section 10, rule SCH-6 (T38). Decision D11.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from klal.errors import MalformedError
from klal.model.codec import COLUMN_ID_SIZE, NAME_LENGTH_MAX

TOKEN_COUNT_MAX = 4000
LITERAL_SIZE_MAX = 64 * 1024


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What an expression over one row may say: CHECK, generated columns, indexes.
ROW_WORDS = _words(
    """
    AND AS BETWEEN CASE CAST COLLATE DISTINCT ELSE END ESCAPE FALSE FROM GLOB IN IS ISNULL LIKE NOT NOTNULL
    NULL OR THEN TRUE WHEN
    """
)
# What a view may say besides.
VIEW_WORDS = ROW_WORDS | _words(
    """
    ALL ASC BY CROSS CURRENT CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP DESC EXCEPT EXCLUDE EXISTS FILTER
    FIRST FOLLOWING FULL GROUP GROUPS HAVING INNER INTERSECT JOIN LAST LEFT LIMIT MATERIALIZED NATURAL NO
    NULLS OFFSET ON ORDER OTHERS OUTER OVER PARTITION PRECEDING RANGE RECURSIVE RIGHT ROW ROWS SELECT TIES
    UNBOUNDED UNION USING VALUES WHERE WINDOW WITH
    """
)
OPERATORS = _words("( ) , + - * / % & | ~ || << >> < > <= >= = == != <> -> ->>")
VIEW_OPERATORS = OPERATORS | {"."}

# Functions that give a value for every argument that fits into a change. A generated column is worked out while a merge
# writes the row, and a merge must not stop because a function does.
TOTAL_FUNCTIONS = _words(
    """
    char coalesce hex ifnull iif instr length lower ltrim max min nullif quote round rtrim sign substr
    substring trim typeof unicode upper
    """
)
ROW_FUNCTIONS = TOTAL_FUNCTIONS | _words(
    """
    abs concat concat_ws date datetime format glob json json_array json_array_length json_extract
    json_insert json_object json_patch json_quote json_remove json_replace json_set json_type json_valid
    julianday like likelihood likely octet_length printf replace strftime time timediff unhex unixepoch unlikely
    """
)
VIEW_FUNCTIONS = ROW_FUNCTIONS | _words(
    """
    avg ceil ceiling count cume_dist dense_rank exp first_value floor group_concat json_each
    json_group_array json_group_object json_tree lag last_value lead ln log log10 log2 mod nth_value ntile
    percent_rank pi pow power rank row_number sqrt string_agg sum total trunc
    """
)
# These raise on some values that a column may hold.
PARTIAL_OPERATORS = frozenset(("->", "->>"))
PARTIAL_WORDS = frozenset(("GLOB", "LIKE"))
_PATTERN_SIZE_MAX = {"LIKE": 10_000, "GLOB": 10_000, "ESCAPE": 1}  # In characters; SQLite's limit is 50,000 bytes.


class Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One token.

    Shape:
        kind: "w" word, "n" name, "c" column, "v" literal, "o" operator, "f" function.
        value: upper case text for a word, lower case for a function; of a column its declared
            name in a table's definition, its id in an index; of a literal a number, text or bytes.
    """

    kind: str
    value: Any


Tokens = tuple[Token, ...]


class Grammar(msgspec.Struct, frozen=True):
    """Which words, operators and functions a list of tokens may use.

    Shape:
        has_plain_patterns: after LIKE, GLOB and ESCAPE only a text can stand: SQLite raises on patterns that
            are too long, and on an ESCAPE that is no single character.
    """

    words: frozenset[str]
    operators: frozenset[str]
    functions: frozenset[str]
    has_names: bool
    has_plain_patterns: bool = False


ROW = Grammar(ROW_WORDS, OPERATORS, ROW_FUNCTIONS, has_names=False)
TOTAL = Grammar(ROW_WORDS - PARTIAL_WORDS, OPERATORS - PARTIAL_OPERATORS, TOTAL_FUNCTIONS, has_names=False)
# klal_violations asks each CHECK of each row, and must answer whatever a merge has let in.
CHECK = Grammar(
    ROW_WORDS,
    OPERATORS - PARTIAL_OPERATORS,
    TOTAL_FUNCTIONS
    | _words(
        """
        abs concat concat_ws date datetime json_valid julianday likelihood likely octet_length strftime time
        timediff unhex unixepoch unlikely
        """
    ),
    has_names=False,
    has_plain_patterns=True,
)
VIEW = Grammar(VIEW_WORDS, VIEW_OPERATORS, VIEW_FUNCTIONS, has_names=True)


def check_tokens(tokens: Tokens, grammar: Grammar) -> None:
    """Return if foreign tokens can be spelled with no risk (SCH-6, T38).

    Raises:
        MalformedError: SCH-6, a token out of bounds, or parentheses that do not close what they open.
    """
    if len(tokens) > TOKEN_COUNT_MAX:
        raise MalformedError(f"expression has {len(tokens)} tokens, want at most {TOKEN_COUNT_MAX}", rule="SCH-6")
    depth = 0
    for at, token in enumerate(tokens):
        if not _is_allowed(token, grammar, tokens[at - 1] if at else None):
            found = f"{token.kind!r:.10} {token.value!r:.40}"
            raise MalformedError(f"expression has the token {found}, which is not allowed in it", rule="SCH-6")
        if grammar.has_plain_patterns and token.kind == "w" and token.value in _PATTERN_SIZE_MAX:
            _check_pattern(tokens[at + 1 : at + 3], _PATTERN_SIZE_MAX[token.value])
        if token.kind == "o":
            depth += {"(": 1, ")": -1}.get(token.value, 0)
            if depth < 0:
                break
    if depth:
        raise MalformedError("expression has parentheses that do not match", rule="SCH-6")


def _check_pattern(after: Tokens, size_max: int) -> None:
    pattern = after[0] if after else None
    is_text = pattern is not None and pattern.kind == "v" and type(pattern.value) is str
    if not is_text or pattern is None or len(pattern.value) > size_max or (size_max == 1 and not pattern.value):
        raise MalformedError("a LIKE, GLOB or ESCAPE in a CHECK is not followed by a short text", rule="SCH-6")
    if len(after) > 1 and not (after[1].kind == "w" or after[1] in (Token("o", ")"), Token("o", ","))):
        raise MalformedError("a pattern in a CHECK is put together, want a text", rule="SCH-6")


def _is_allowed(token: Token, grammar: Grammar, before: Token | None) -> bool:
    value = token.value
    match token.kind:
        case "v":
            return _is_literal(value)
        case "c":
            is_id = type(value) is bytes and len(value) == COLUMN_ID_SIZE
            return not grammar.has_names and (is_id or is_name(value))
        case "n":
            # Over one row, a plain name can only be a collation or a type.
            follows = before is not None and before.kind == "w" and before.value in ("COLLATE", "AS")
            return is_name(value) and (grammar.has_names or follows)
        case "w" | "o" | "f":
            allowed = {"w": grammar.words, "o": grammar.operators, "f": grammar.functions}[token.kind]
            return type(value) is str and value in allowed
    return False


def _is_literal(value: Any) -> bool:
    if type(value) is int:
        return 0 <= value < 1 << 63
    if type(value) is float:
        return not math.isnan(value)
    if type(value) is str:
        return len(value) <= LITERAL_SIZE_MAX and "\0" not in value
    return type(value) is bytes and len(value) <= LITERAL_SIZE_MAX


def is_name(value: Any) -> bool:
    """True for what can name a column, table or collation."""
    return type(value) is str and 0 < len(value) <= NAME_LENGTH_MAX and "\0" not in value


def is_total(tokens: Tokens) -> bool:
    """True when an expression gives a value for every row."""
    allowed = {"w": TOTAL.words, "o": TOTAL.operators, "f": TOTAL.functions}
    return all(token.value in allowed[token.kind] for token in tokens if token.kind in allowed)


def columns_in(tokens: Tokens) -> set[Any]:
    """Return the columns that an expression over one row uses: names or ids, as its tokens have them."""
    return {token.value for token in tokens if token.kind == "c"}
