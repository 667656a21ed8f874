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


_EXTRAS = {
    **dict.fromkeys(("daft", "duckdb", "ftfy", "glin_profanity", "py3langid"), "filter"),
    **dict.fromkeys(("markdown_it", "mdit_py_plugins"), "documents"),
}


def missing_extra(error: ModuleNotFoundError) -> UserError | None:
    """Return what to install where `error` is about a package of one of our extras, else None.

    Only packages that a whole room imports at its top; those of a single format or tracker are asked for where they are
    used.
    """
    package = (error.name or "").partition(".")[0]
    if (extra := _EXTRAS.get(package)) is None:
        return None
    return UserError(f'{package}: not installed; pip install "conan-embed[{extra}]" brings it.')


def suggestion(found: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the known word nearest to `found`, or an empty string."""
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
