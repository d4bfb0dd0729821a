"""What can go wrong with an image, in words that are safe to show to the person who asked for it."""


class ImagingError(Exception):
    """Base of this package's errors. `message` holds no path of the host and may be shown to anyone."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RecipeError(ImagingError):
    """A recipe file does not say what a recipe must say; the message names the file and the key."""


class ImageBuildError(ImagingError):
    """A build failed. `log_tail` is the end of the tools' output, for administrators only."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


class ImageRejected(ImagingError):
    """A file is not an image that may be imported. `code` is stable; `message` says what it is and how to mend it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CommandFailed(ImagingError):
    """A tool ended with an error, a signal or its time limit. `log_tail` may hold paths: log it, do not show it."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail
