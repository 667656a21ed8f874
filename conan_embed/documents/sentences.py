"""Where sentences end, in Chinese and English."""

import re

_END = re.compile(r"[.!?](?=[)\"'”’]*(?:\s|$))[)\"'”’]*|[。！？；…]+[”’」』）]*")
_END_OR_LINE = re.compile(rf"{_END.pattern}|\n+")
_SPACES = re.compile(r"\s*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|incl|al|Eqs?|eq|Fig|Sec|Refs?|[Nn]o|Dr|Mr|Mrs|Ms|St|ca|w\.r\.t|viz|dim|arg)"
    r"|\b[A-Z]|\.\.)\.$"
)
_LONGEST_ABBREVIATION = 10
_LONGEST_ASIDE = (
    300  # characters until a parenthesis closes; one that stays open longer was never meant to close
)


def split_sentences(text: str, *, at_lines: bool = False) -> list[str]:
    """Cut a text after each sentence and the spaces behind it; joined, the parts are the text again.

    Args:
        at_lines: the end of a line ends a sentence, too.

    Example:
        >>> split_sentences("See e.g. Fig. 2. It works! 很好。真的。")
        ['See e.g. Fig. 2. ', 'It works! ', '很好。', '真的。']
    """
    parts, start, counted, depth = [], 0, 0, 0
    for match in (_END_OR_LINE if at_lines else _END).finditer(text):
        end = match.end()
        if end <= start:  # a line's end behind a sentence's
            continue
        depth += text.count("(", counted, end) - text.count(")", counted, end)
        counted = end
        stop = _SPACES.match(text, end).end()  # type: ignore[union-attr]
        if match[0][0] != "\n":
            if depth > 0 and text.find(")", end, end + _LONGEST_ASIDE) >= 0:
                continue
            tail = text[max(start, end - _LONGEST_ABBREVIATION) : end]
            if _ABBREVIATION.search(tail) or text[stop : stop + 1].islower():
                continue
        parts.append(text[start:stop])
        start, depth = stop, 0
    return [*parts, text[start:]] if start < len(text) else parts


def first_sentence(text: str) -> tuple[str, str]:
    """Divide a text into its first sentence and the rest.

    Example:
        >>> first_sentence("Sort the rows. Ties keep their order.")
        ('Sort the rows.', 'Ties keep their order.')
    """
    head, *tail = split_sentences(text) or [""]
    return head.strip(), "".join(tail).strip()
