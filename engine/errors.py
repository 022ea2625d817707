"""The errors that users meet. Each says what was got, what was wanted and what to do; a command prints it as one line."""

LONGEST_QUOTED = 200
"""Characters of a name or a line that a message repeats."""


class EngineError(Exception):
    """Base of every error raised on purpose."""


class ImageError(EngineError):
    """A picture or embedding that cannot be used."""


class LargePictureError(ImageError):
    """A picture is larger than the limit on pixels allows."""


class BundleError(EngineError):
    """A bundle that is missing, changed, unsafe or inconsistent."""


class OptionError(EngineError, ValueError):
    """An option outside what this engine or this bundle offers."""


class ProviderError(EngineError):
    """An execution provider that was asked for and is missing, or does not run the model."""


class ProcessError(EngineError):
    """A model that is used in a fork of the process that loaded it."""


class OutputError(EngineError):
    """A file that cannot be written or read back."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shortened(text: str) -> str:
    """A text of somebody else's, short enough for a message of ours."""
    return text if len(text) <= LONGEST_QUOTED else f"{text[:LONGEST_QUOTED]}..."
