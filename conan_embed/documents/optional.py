"""Libraries that only some formats need (the extras `documents` and `quickstart`)."""

import importlib
from typing import Any

from conan_embed.errors import UserError


def load_library(module: str, package: str, file: str, *, extra: str = "documents") -> Any:
    """Import the library that reads `file`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f'{file}: reading it needs {package}; pip install "conan-embed[{extra}]" brings it.'
        ) from error
