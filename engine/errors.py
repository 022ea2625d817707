"""The errors users meet. Each says what was got, what was wanted and what to do; the command line prints one line."""


class EngineError(Exception):
    """Base of every error raised on purpose."""


class ImageError(EngineError):
    """A picture or embedding that cannot be used."""


class BundleError(EngineError):
    """A bundle that is missing, changed, unsafe or inconsistent."""


class OptionError(EngineError, ValueError):
    """An option outside what this engine or this bundle offers."""


class ProviderError(EngineError):
    """An execution provider that was asked for and is not there."""


class OutputError(EngineError):
    """A file that cannot be written or read back."""
