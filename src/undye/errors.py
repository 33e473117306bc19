"""Errors that are the user's to mend: shown as one line, without a traceback, with exit code 2."""


class UserError(ValueError):
    """Bad input. The message is one line that says what is wrong and what to do about it.

    Attributes:
        told: whether all processes of this run know that it has failed, see `World.agreed`.
    """

    told = False


class SaidElsewhereError(UserError):
    """Another process of the same run has told the user already: this one ends without a word."""

    told = True


class TooManyBadImages(UserError):
    """More images of a data set were unreadable or too small than the stated fraction allows."""
