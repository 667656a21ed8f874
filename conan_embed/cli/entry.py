"""What is printed and returned when a command fails."""

from rich.text import Text

from conan_embed.cli.app import app
from conan_embed.console import console
from conan_embed.distributed import failures
from conan_embed.errors import UserError, missing_extra
from conan_embed.files import disk_error


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit status 2.

    Of several processes, the first to fail reports it, and all end with its status.
    """
    try:
        app(standalone_mode=True)
    except UserError as error:
        message = str(error)
        failures.exit_all(2, lambda: _print_error(message))
    except KeyboardInterrupt:
        failures.exit_all(130, lambda: console.print("interrupted"))
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (mistake := missing_extra(error)) is not None:
            message = str(mistake)
            failures.exit_all(2, lambda: _print_error(message))
        if (reason := disk_error(error)) is not None:
            file = getattr(error, "filename", None)
            message = f"{file + ': ' if file else ''}cannot be written: {reason}."
            failures.exit_all(2, lambda: _print_error(message))
        if not failures.in_group():
            raise
        if not failures.is_peer_failure(error):
            failures.exit_all(1, console.print_exception)
        lost = str(error).strip().splitlines()[0]
        message = (
            f"lost another process of the run ({lost}). The same command resumes from the last checkpoint."
        )
        failures.exit_all(1, lambda: _print_error(message))


def _print_error(message: str) -> None:
    console.print(Text.assemble(("error", "bold red"), f"{failures.process_suffix()} {message}"))
