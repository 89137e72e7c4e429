"""The program, also as `python -m auricle`."""

import sys

from auricle import __version__


def main() -> None:
    """Entry point; loads what the commands need, which takes seconds, where an interruption is answered as later on."""
    if sys.argv[1:] == ["--version"]:
        print(f"auricle {__version__}")
        return
    try:
        from auricle.cli import main as run
    except KeyboardInterrupt:
        print("auricle: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
