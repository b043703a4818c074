"""A model's folder: a local one as it is, else downloaded from the hub. The one user of huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from aphrodite.errors import ModelError, UsageError

_WANTED = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]


def locate(model: str, revision: str | None, cache: Path | None = None) -> Path:
    """The folder of `model`: a path, or "owner/name" on the hub.

    revision  branch, tag or commit on the hub; a local folder has none
    cache     where downloads go, default the hub client's own
    Raises ModelError when there is no such folder, or the hub refuses; the message says which and what to do.
    """
    if not model:
        raise UsageError("model must be a folder or a name on the hub, got ''", subject="model")
    try:
        path = Path(model).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, a name too long, a NUL in it
        raise ModelError(f"model {model[:80]!r} cannot be a path: {error}", subject=model) from None
    if is_folder:
        if revision is not None:
            raise UsageError(f"revision {revision!r} is for models on the hub; {model} is a folder", subject="revision")
        return path
    if is_there:
        raise ModelError(f"{model} is a file; a model is the folder that holds its config.json", subject=model)
    parts = model.split("/")
    if len(parts) != 2 or not all(parts) or model.startswith((".", "~")):
        raise ModelError(
            f"model {model!r}: there is no such folder, and a name on the hub has the form owner/name",
            subject=model,
        )
    return _download(model, revision, cache)


def _download(model: str, revision: str | None, cache: Path | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(model, revision=revision, cache_dir=cache, allow_patterns=_WANTED))
    except GatedRepoError:
        reason = f"is gated: accept its licence at its hub page, then set HF_TOKEN to a token that may read {model}"
    except RevisionNotFoundError:
        reason = f"has no revision {revision!r}"
    except RepositoryNotFoundError:
        reason = "is not on the hub (or is private: set HF_TOKEN), and there is no such folder"
    except HFValidationError as error:
        reason = f"is no folder and no name the hub accepts: {error}"
    except LocalEntryNotFoundError:
        reason = "is no folder here, not in the download cache, and the hub cannot be reached"
    except (HfHubHTTPError, OSError) as error:
        reason = f"could not be downloaded: {str(error).splitlines()[0]}"
    raise ModelError(f"model {model!r} {reason}", subject=model)
