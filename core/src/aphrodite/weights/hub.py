"""A model's folder: a local one, one that a distribution brings, or a download. The one user of huggingface_hub."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aphrodite.errors import ModelError, UsageError
from aphrodite.weights import sources

_DESCRIPTION = ["*.json", "tokenizer.model", "*.jinja"]
_WEIGHTS = ["*.safetensors"]


@dataclass(frozen=True)
class Fetch:
    """How a model comes from the hub.

    revision   branch, tag or commit
    cache      where downloads go, default the hub client's own
    offline    look there alone, and use no network at all
    weights    the weights too, not only what describes the model
    show_bars  the hub client's own bars on standard error, if that is a terminal
    """

    revision: str | None = None
    cache: Path | None = None
    offline: bool = False
    weights: bool = True
    show_bars: bool = False


def locate(model: str, fetch: Fetch) -> Path:
    """The folder of `model`: a path, else the short name of an installed model, else "owner/name" on the hub.

    A short name gives way to a folder of that name with a config.json; ./name is always the folder.
    Raises ModelError when there is no such folder, or the hub refuses; the message says which and what to do.
    """
    if not model:
        raise UsageError("model must be a folder or a name on the hub, got ''", subject="model")
    try:
        path = Path(model).expanduser()
        is_folder, is_there, is_model = path.is_dir(), path.exists(), (path / "config.json").exists()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, a name too long, a NUL in it
        raise ModelError(f"model {model[:80]!r} cannot be a path: {error}", subject=model) from None
    may_be_short = not is_model and "/" not in model and not model.startswith((".", "~"))
    if may_be_short and (brought := sources.folder_of(model)) is not None:
        _refuse_revision(model, "is installed", fetch)
        return brought
    if may_be_short and model in sources.OURS:
        raise ModelError(_not_installed(model, is_folder), subject=model)
    if is_folder:
        _refuse_revision(model, "is a folder", fetch)
        return path
    if is_there:
        raise ModelError(f"{model} is a file; a model is the folder that holds its config.json", subject=model)
    parts = model.split("/")
    if len(parts) != 2 or not all(parts) or model.startswith((".", "~")):
        names = ", ".join(sources.installed())
        short = f" nor an installed model of that name (there is {names})" if names and may_be_short else ""
        raise ModelError(
            f"model {model!r}: there is no such folder{short}, and a name on the hub has the form owner/name",
            subject=model,
        )
    folder = _download(model, fetch)
    if fetch.offline and fetch.weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {model!r} is in the download cache without its weights, and offline forbids to fetch them: run "
            "once without it",
            subject=model,
        )
    return folder


def _refuse_revision(model: str, what: str, fetch: Fetch) -> None:
    if fetch.revision is not None:
        raise UsageError(f"revision {fetch.revision!r} is for models on the hub; {model} {what}", subject="revision")


def _not_installed(model: str, is_folder: bool) -> str:
    """How to get a model of ours."""
    here = f"the folder {model} here has no config.json, and " if is_folder else ""
    return f"model {model!r}: {here}the model of that name is not installed: pip install {sources.OURS[model]}"


def _download(model: str, fetch: Fetch) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils.tqdm import tqdm

    class NoBar(tqdm):
        """The hub client draws on standard error unless it is told to draw nothing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    try:
        folder = snapshot_download(
            model,
            revision=fetch.revision,
            cache_dir=fetch.cache,
            local_files_only=fetch.offline,
            allow_patterns=[*_DESCRIPTION, *(_WEIGHTS if fetch.weights else ())],
            tqdm_class=None if fetch.show_bars and sys.stderr.isatty() else NoBar,
        )
    except GatedRepoError:
        reason = f"is gated: accept its licence at its hub page, then set HF_TOKEN to a token that may read {model}"
    except RevisionNotFoundError:
        reason = f"has no revision {fetch.revision!r}: its hub page lists branches and tags"
    except RepositoryNotFoundError:
        reason = (
            "is not on the hub (or is private: set HF_TOKEN to a token that may read it), and there is no such folder: "
            "check the name"
        )
    except HFValidationError as error:
        reason = f"is no folder and no name the hub accepts: {_first_line(error)}"
    except LocalEntryNotFoundError as error:
        reason = _not_cached(fetch, error.__cause__)
    except HfHubHTTPError as error:
        reason = _refused(error.response.status_code)
    except Exception as error:  # the client's own, of the transport under it, of the disk: all of them end a download
        reason = f"could not be downloaded: {type(error).__name__}: {_first_line(error)}: try again"
    else:
        return Path(folder)
    raise ModelError(f"model {model!r} {reason}", subject=model)


def _not_cached(fetch: Fetch, cause: BaseException | None) -> str:
    """Why a model is not there, when the hub was not to be asked, or gave no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    revision = f"its revision {fetch.revision!r} is " if fetch.revision else ""
    what = f"is no folder here, {revision}not in the download cache (or not whole)"
    if fetch.offline:
        return f"{what}, and offline forbids to fetch it: run once without it, or pass the folder"
    if isinstance(cause, HfHubHTTPError):
        return f"{what}, and {_refused(cause.response.status_code)}"
    return f"{what}, and the hub cannot be reached: check the network, HF_ENDPOINT and HF_HUB_OFFLINE"


def _refused(status: int) -> str:
    """What an answer of the hub means that is none of the usual ones."""
    if status in (401, 403):
        return f"the hub refuses access (HTTP {status}): set HF_TOKEN to a valid token that may read it"
    if status == 429:
        return "the hub asks to come back later (HTTP 429): wait, or set HF_TOKEN, which raises the limit"
    return f"the hub has answered HTTP {status}: try again later"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")
