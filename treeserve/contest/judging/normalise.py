"""Equal programs: a key that comments and the spaces between tokens do not change."""

import hashlib
import io
import re
import tokenize

_DROPPED = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_LAYOUT = {tokenize.NEWLINE: "\n", tokenize.INDENT: "\t+", tokenize.DEDENT: "\t-"}
_CPP_TOKEN = re.compile(
    r"""(?P<space>(?://(?:\\\n|[^\n])*|/\*.*?\*/|\s)+)|(?P<directive>\#(?:\\\n|/\*.*?\*/|[^\n])*)|"""
    r"""(?:u8|[uUL])?R"(?P<d>[^()\\\s]{0,16})\(.*?\)(?P=d)"|"(?:\\.|[^"\\\n])*"|\.?\d[\w'.]*|"""
    r"""'(?:\\.|[^'\\\n])*'|\w+|.""",
    re.DOTALL,
)


_MOST_CHARACTERS = 1 << 15
"""Of programs that are taken apart: some texts take time that grows with the square of it."""


def program_key(program: str, language: str) -> str:
    """Programs with equal keys do the same. A program that cannot be taken apart is its own key."""
    normal = f"raw\0{program}"
    if len(program) <= _MOST_CHARACTERS:
        normal = _python(program) if language == "python" else _cpp(program)
    return hashlib.sha256(f"{language}\0{normal}".encode(errors="surrogatepass")).hexdigest()


def _python(program: str) -> str:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(program).readline))
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError):
        return f"raw\0{program}"
    parts = [
        _LAYOUT.get(token.type, token.string) for token in tokens if token.type not in _DROPPED
    ]
    return "\0".join(parts)


def _cpp(program: str) -> str:
    """Spaces and comments become one space; a directive keeps its line."""
    if "__LINE__" in program:
        return f"raw\0{program}"
    parts: list[str] = []
    for found in _CPP_TOKEN.finditer(program):
        if found["directive"]:
            parts.append(f"\n{found[0].strip()}\n")
        else:
            parts.append(" " if found["space"] else found[0])
    return "".join(parts).strip()
