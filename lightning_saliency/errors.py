"""The errors and warnings that are specific to this package."""


class SaliencyError(RuntimeError):
    """A model or a trainer cannot be explained; the message says why and what to do about it."""


class SaliencyWarning(UserWarning):
    """A map may not be what its name promises, or a run logs less than was asked for."""


class RecordError(SaliencyError):
    """A file of a run or of a reference is missing, damaged, or not what it claims to be."""


class NotComparableError(RecordError):
    """Two runs cannot be compared, because their probes, rules or classes differ."""
