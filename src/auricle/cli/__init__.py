"""The command line: one command a stage, `run` for all of them, `study` to compare arms, `segment` for a scan."""

import contextlib
import functools
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tyro

from auricle import __version__
from auricle.cli.commands import COMMANDS
from auricle.core import progress
from auricle.core.errors import InputError

__all__ = ["COMMANDS", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 2 the input cannot be used, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"auricle {__version__}")
        return
    # What our dependencies deprecate is not the user's business.
    warnings.filterwarnings("ignore", module=r"(monai|lightning_fabric|torch)\b")
    try:
        _run(arguments)
    except BrokenPipeError:
        # Whoever read the output has gone; what is left in the buffer would raise again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("auricle: stopped, since nobody reads its output any more (broken pipe)", file=sys.stderr)
        sys.exit(1)


def _run(arguments: Sequence[str]) -> None:
    """The command, whose errors end in one line."""
    try:
        # Wrong flags are an event, too.
        progress.configure("json" if "--json" in arguments else "bars")
        _parse(arguments)()
    except (InputError, ValueError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("auricle: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or re.search("out of memory|allocate", str(error)):
            _fail(f"out of memory: {_smaller(arguments)}")
        if not re.search("CUDA|cuDNN|HIP", str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        _fail(f"the GPU failed ({reason}): set CUDA_VISIBLE_DEVICES= (to nothing) before the command to do it on the CPU")
    except BrokenPipeError:
        raise
    except OSError as error:
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}")


def _smaller(arguments: Sequence[str]) -> str:
    """What needs less memory."""
    if arguments[:1] in (["segment"], ["measure"], ["export"], ["check"]):
        return "close other programs, or crop the scan to the chest (on a GPU that is too small: set CUDA_VISIBLE_DEVICES= before the command)"
    return "take a smaller recipe, batch, patch or model grid"


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to run; exits with one line where they are wrong."""
    chosen: list[Callable[[], None]] = []

    def deferred(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def keep(*values: Any, **named: Any) -> None:
            chosen.append(functools.partial(command, *values, **named))

        return keep

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            tyro.extras.subcommand_cli_from_dict(
                {name: deferred(command) for name, command in COMMANDS.items()}, prog="auricle", args=arguments, description=__doc__
            )
    except SystemExit as stop:
        if stop.code not in (0, None):
            _fail(_one_line(errors.getvalue()))
        raise
    return chosen[0]


def _one_line(boxed: str) -> str:
    """The parser's framed message without its frame."""
    lines = [re.sub(r"[╭╮╰╯│─]", " ", line).strip() for line in boxed.splitlines()]
    text = " ".join(line for line in lines[1:] if line)
    return re.sub(r"\s+", " ", text).replace("For full helptext, run", "- see").replace(":  ", ": ").strip()


def _fail(message: str) -> NoReturn:
    progress.event("error", message=message)
    print(f"auricle: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
