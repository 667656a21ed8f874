"""What a user did wrong, in one clear sentence.

`UserError` is the only exception that the command line prints without a traceback. Its message names the file, line
or key, what was found and what was expected. What *we* did wrong stays an `assert` or any other exception.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a recipe, a file or a command; the message is a sentence for the person who made it.

    The command line prints the message and ends with status 2.

    Example:
        >>> ce.read_pairs("fqa.jsonl")
        Traceback (most recent call last):
            ...
        conan_embed.errors.UserError: fqa.jsonl: no such file (did you mean 'faq.jsonl'?).
    """


class NotFinite(UserError):
    """NaN or infinity where a number is expected."""


def suggestion(found: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the known word nearest to `found`, or an empty string."""
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
