"""Every error paritas raises on purpose.

    ParitasError
    ├── RegistryError          the models registry: unknown model, unknown key, wrong type
    ├── SourceError            a checkpoint cannot be fetched, read or trusted
    ├── ExportError            a checkpoint cannot be turned into a bundle
    │   └── ParityError        ... because its vectors are not the checkpoint's
    ├── BundleError            a bundle is missing, incomplete or changed
    │   └── NotExportedError   ... because nobody made it yet
    ├── StoreError             this user has no folder for a store (also an OSError)
    ├── RunError               onnxruntime fails while it runs a text
    ├── InputError             what the caller passed (also a ValueError)
    │   ├── ShapeError         ... an array of the wrong shape or dtype
    │   └── TooManyTokensError ... more tokens than a call may have
    ├── Overloaded             as much waits as may; says when to come again
    ├── JobError               a bulk job cannot go on: another job's folder, a changed input, a lost store
    ├── VectorIndexError       an index is missing, damaged, or belongs to another model
    ├── ProviderError          the requested execution provider cannot run here
    └── MissingExtraError      an optional dependency is absent or clashes (also an ImportError)

A message says what was wrong, what was expected and what to type. On the command line each of
these ends with exit code 2 and no traceback; anything else is a fault of ours and ends with 1.
"""

from __future__ import annotations

from collections.abc import Iterable


class ParitasError(Exception):
    """Base of every error raised on purpose."""


class RegistryError(ParitasError):
    """The models registry is malformed or does not know the name."""


class SourceError(ParitasError):
    """A checkpoint cannot be fetched, read or trusted."""


class ExportError(ParitasError):
    """A checkpoint cannot be turned into a bundle."""


class ParityError(ExportError):
    """The graph's vectors are further from the checkpoint's than the registry allows."""


class BundleError(ParitasError):
    """A bundle is missing, incomplete, changed, or lacks what was asked of it."""


class NotExportedError(BundleError):
    """A model is known, or may be on a hub, and has no bundle yet."""


class StoreError(ParitasError, OSError):
    """There is no folder for bundles and caches: this user has no home directory that can be used."""


class RunError(ParitasError):
    """onnxruntime failed while it ran a text."""


class InputError(ParitasError, ValueError):
    """The caller's texts, ids or files are not what the function takes."""


class ShapeError(InputError):
    """An array has the wrong shape, dtype or layout."""


class TooManyTokensError(InputError):
    """A call's texts have more tokens than a call may have."""


class Overloaded(ParitasError):  # noqa: N818 - no error of the request: it may be sent again
    """As much waits as may: nothing of the request was taken."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        """Take the message, and how long what waits will take."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds after which it may be sent again."""


class JobError(ParitasError):
    """A bulk job cannot go on: its folder is another job's, an input changed, or a store is lost."""


class VectorIndexError(ParitasError):
    """An index is missing, damaged, read-only, or belongs to another model."""


class ProviderError(ParitasError):
    """The requested execution provider cannot run here."""


class MissingExtraError(ParitasError, ImportError):
    """An optional dependency is absent, or two of them clash."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, else the list of known names."""
    import difflib  # here, for it is seldom needed, and what is loaded before main() is not yet guarded

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
