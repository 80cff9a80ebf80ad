"""UserError: the exception for wrong input, as opposed to a fault in the program."""


class UserError(Exception):
    """Error in data, configuration or a request that the user can correct.

    The message is a full sentence. It names the file, column, key or value at fault and the remedy. The
    command line prints it without a stack trace and exits with status 2.
    """
