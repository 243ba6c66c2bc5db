"""The one error that a user of the command meets: its text is all that is shown."""

from __future__ import annotations


class InputError(ValueError):
    """What was given can't be used; the message says why and what to do. The command ends with code 2."""
