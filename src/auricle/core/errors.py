"""The user's mistakes, and what cannot be read: reported in one line, never as a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message names the file or flag and the way out."""


class Busy(InputError):
    """The folder is being written by another process, which may well finish what is asked for."""
