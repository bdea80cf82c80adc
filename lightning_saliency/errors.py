"""What the package raises and warns of its own."""


class SaliencyError(RuntimeError):
    """A model or a trainer that cannot be explained; the message says why and what to do."""


class SaliencyWarning(UserWarning):
    """A map that is not what its name promises, or a run that logs less than was asked for."""


class RecordError(SaliencyError):
    """A file of a run or of a reference that is missing, damaged, or not what it says it is."""


class NotComparableError(RecordError):
    """Runs of other probes, rules or classes, between which nothing can be told."""
