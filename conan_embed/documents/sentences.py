"""Where sentences end, in Chinese and English."""

import re

_END = re.compile(r"[.!?](?=[)\"'”’]*(?:\s|$))[)\"'”’]*|[。！？；…]+[”’」』）]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|incl|al|Eqs?|eq|Fig|Sec|Refs?|[Nn]o|Dr|Mr|Mrs|Ms|St|ca|w\.r\.t|viz|dim|arg)"
    r"|\b[A-Z]|\.\.)\.$"
)


def sentences(text: str) -> list[str]:
    """Cut a text after each sentence; joined, the parts are the text again.

    Example:
        >>> sentences("See e.g. Fig. 2. It works! 很好。真的。")
        ['See e.g. Fig. 2. ', 'It works! ', '很好。', '真的。']
    """
    parts, start = [], 0
    for match in _END.finditer(text):
        stop = match.end()
        rest = text[stop:]
        if _ABBREVIATION.search(text[start:stop]) or rest.lstrip(" ")[:1].islower():
            continue
        if text.count("(", start, stop) > text.count(")", start, stop):
            continue
        stop += len(rest) - len(rest.lstrip())
        parts.append(text[start:stop])
        start = stop
    return [*parts, text[start:]] if start < len(text) else parts


def first_sentence(text: str) -> tuple[str, str]:
    """Divide a text into its first sentence and the rest.

    Example:
        >>> first_sentence("Sort the rows. Ties keep their order.")
        ('Sort the rows.', 'Ties keep their order.')
    """
    head, *tail = sentences(text) or [""]
    return head.strip(), "".join(tail).strip()
