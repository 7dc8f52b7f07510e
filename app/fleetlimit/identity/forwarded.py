"""Reads the hops of X-Forwarded-For and of RFC 7239 Forwarded from the right.

An element is whatever stands between two commas, quoted or not. A reader that honoured quotes
from the left would let a client open a quote that swallows the hop its proxy appends.
"""

import re
from collections.abc import Callable, Iterator, Sequence

MAX_HOPS = 32
"""Hops looked at; a longer chain of trusted proxies is taken for an attack."""
_MAX_ELEMENT_BYTES = 512

_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?", re.ASCII
)
# Values out of quotes may hold colons and brackets: widely sent, though RFC 7239 §4 wants quotes.
_PAIR = re.compile(
    r"[ \t;]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r'([^\s",;\\]+|"(?:[^"\\]|\\.)*")[ \t]*(?:;|$)',
    re.ASCII,
)


def hops(lines: Sequence[bytes], read: Callable[[str], str]) -> Iterator[str]:
    """Yield the address text of each hop, the right-most first.

    Args:
        lines: The header's lines, in the order received.
        read: `x_forwarded_for` or `forwarded`: takes one element to address text.

    Raises:
        ValueError: A hop cannot be read, or there are more than `MAX_HOPS`.
    """
    seen = 0
    for line in reversed(lines):
        for element in reversed(line.rsplit(b",", MAX_HOPS)):
            seen += 1
            if seen > MAX_HOPS or len(element) > _MAX_ELEMENT_BYTES:
                raise ValueError("too many hops, or too long a hop")
            if text := element.decode("ascii").strip(" \t"):
                yield read(text)


def x_forwarded_for(element: str) -> str:
    """Return the address of one element: without port, and without the brackets of IPv6."""
    found = _NODE.fullmatch(element)
    return (found[1] or found[2]) if found else element


def forwarded(element: str) -> str:
    """Return the address in the `for` of one element (RFC 7239 §4, §6).

    Raises:
        ValueError: The element breaks the grammar, or has no `for`, or two.
    """
    nodes = []
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            raise ValueError("not a forwarded-pair")
        if pair[1].lower() == "for":
            nodes.append(pair[2])
        position = pair.end()
    (node,) = nodes
    if node.startswith('"'):
        node = re.sub(r"\\(.)", r"\1", node[1:-1])
    return x_forwarded_for(node)
