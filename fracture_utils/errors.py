"""The exceptions that are written for the person at the keyboard."""


class InputError(Exception):
    """Something a person can mend: a file, a folder, a setting.

    The message is one or two sentences that name the file or setting and the next
    action. In a notebook it is shown without a traceback (IPython asks the exception
    class for `_render_traceback_`); headless, the exit code is still non-zero.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class RunError(Exception):
    """The run came to an end for a reason that is nobody's input; the message says what to do."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 120 characters."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0][:120]
