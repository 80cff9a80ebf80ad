"""The one exception that means "the input is wrong", as opposed to "the program is"."""


class UserError(Exception):
    """Bad input: data, configuration or a request that its author can mend.

    The message is a full sentence that names the file, column, key or value at fault and says what to
    do. The command line prints it without a stack trace and exits with status 2.
    """
