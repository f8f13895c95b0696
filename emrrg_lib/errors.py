"""The one error type for bad input: the command line prints its sentence and exits with code 2."""


class InputError(ValueError):
    """Bad user input; the message is one sentence: what is wrong, where, and what to do."""
