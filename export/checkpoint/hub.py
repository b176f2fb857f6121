"""Checkpoints from a model hub, through its own client: pinned revisions, its cache, its offline mode."""

from __future__ import annotations

import time
from pathlib import Path

from paritas.errors import MissingExtraError, SourceError
from paritas.export.checkpoint.files import CONFIG, MODULES
from paritas.export.checkpoint.layout import collect
from paritas.registry import HubSource

_TRIES = 3


def fetch(source: HubSource) -> tuple[Path, str]:
    """Download (or find in the hub's cache) the checkpoint's files.

    Returns:
        The snapshot's folder, and the commit that the revision resolved to.

    Raises:
        SourceError: the hub cannot be reached, refuses, or lacks a file that is needed.
        ExportError: modules.json asks for what is not exported.
        MissingExtraError: the hub's client is not installed.
    """
    # In a folder of its own where the checkpoint has modules.json, else at the top.
    first = _download(source, CONFIG, required=False) or _download(source, MODULES, required=False)
    if first is None:
        raise SourceError(f"{source.repo}@{source.revision}: {CONFIG} is not in the repository (404)")
    snapshot = first.parent
    # A branch may move between two files: all others are of the commit that it stood for at the first.
    commit = HubSource(source.repo, snapshot.name)
    _download(commit, MODULES, required=False)
    place = f"{source.repo}@{commit.revision}"
    collect(snapshot, lambda file, *, required=False: _download(commit, file, required=required), place)
    return snapshot, commit.revision


def _download(source: HubSource, file: str, *, required: bool = True) -> Path | None:
    """Return the path of one file of the repository, or None where it is not there and not required."""
    try:
        from huggingface_hub import errors as hub_errors
    except ImportError as error:
        raise MissingExtraError(
            "the hub's client is not installed; type: pip install 'paritas[export]'"
        ) from error
    place = f"{source.repo}@{source.revision}"
    try:
        if not required and _is_known_absent(source, file):
            return None
        return Path(_fetch_file(source, file))
    except hub_errors.LocalEntryNotFoundError as error:
        # An outage must not pass for a file's absence: other weights would be taken, or a check skipped.
        # Offline mode is the caller's own wish to make do with what is there.
        offline = isinstance(error.__cause__, hub_errors.OfflineModeIsEnabled)
        if not required and offline and any(_is_cached(source, name) for name in (CONFIG, MODULES)):
            return None
        raise SourceError(
            f"{place}: {file} is not in the local cache and the hub cannot be reached "
            f"(offline mode, network or HF_ENDPOINT): {_cause(error)}"
        ) from error
    except hub_errors.GatedRepoError as error:
        raise SourceError(f"{place}: gated; accept its terms on the hub, then: hf auth login") from error
    except hub_errors.RevisionNotFoundError as error:
        raise SourceError(f"{source.repo}: revision {source.revision} does not exist (404)") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{source.repo}: no such repository, or a private one (401/404); check the name or: hf auth login"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        if not required:
            return None
        raise SourceError(f"{place}: {file} is not in the repository (404)") from error
    except Exception as error:
        # Requests, httpx and xet, one of which the client works with, have no error in common.
        raise SourceError(f"{place}: {file} cannot be downloaded: {_cause(error)}") from error


def _fetch_file(source: HubSource, file: str) -> str:
    """Return where a file of the repository now is; a transfer that breaks is taken up again."""
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download

    for _ in range(_TRIES - 1):
        try:
            return str(hf_hub_download(source.repo, file, revision=source.revision))
        except (hub_errors.HfHubHTTPError, hub_errors.EntryNotFoundError):
            raise  # the hub's answer
        except OSError:
            # Clients before 1.0 keep what arrived, but resume only when asked again; later ones do it all.
            time.sleep(1)
    return str(hf_hub_download(source.repo, file, revision=source.revision))


def _is_cached(source: HubSource, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.repo, file, revision=source.revision), str)


def _is_known_absent(source: HubSource, file: str) -> bool:
    """Tell whether the hub once said that the commit lacks the file: it will not gain it."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source.repo, file, revision=source.revision)
    return cached is not None and not isinstance(cached, str)


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text[:300]
