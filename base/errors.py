"""UserError: the exception for wrong input, as opposed to a fault in the program; and causes of errors."""


class UserError(Exception):
    """Error in data, configuration or a request that the user can correct.

    The message is a full sentence. It names the file, column, key or value at fault and the remedy. The
    command line prints it without a stack trace and exits with status 2.
    """


def root_cause(error: BaseException) -> BaseException:
    """Finds the cause that Beam and TFX wrap: a UserError in the chain, or the last error."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    return next((one for one in chain if isinstance(one, UserError)), chain[-1])


def in_words(error: BaseException) -> str:
    """Returns the text of an error, with a remedy where the machine lacks room; some errors have no text."""
    if isinstance(error, MemoryError):
        return "memory ran out. Give the process more, and run it again: it continues there."
    text = str(error) or type(error).__name__
    if "No space left on device" in text:
        text += ". The disk is full. Free space, and run it again: it continues there."
    return text
