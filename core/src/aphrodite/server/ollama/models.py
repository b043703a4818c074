"""What Ollama's clients ask about models: there is the one that is served, under each of its names."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aphrodite.engine.host import Model
from aphrodite.errors import ModelError
from aphrodite.models.config import read_json
from aphrodite.server.dialect import Call, Json, Reply
from aphrodite.server.errors import invalid
from aphrodite.server.idle import Idle, Kind, idle, others
from aphrodite.server.ollama.answer import shown_time
from aphrodite.server.openai import fields

_LATEST = ":latest"
_FOREVER = "9999-12-31T23:59:59Z"  # it is unloaded with the server
_IDLE: Mapping[str, Idle] = {"verbose": Idle(Kind.SWITCH, (False,))}
_DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def tagged(name: str) -> str:
    """A name with a tag, as clients expect names to be."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def served(call: Call, name: Any) -> str:
    """The name that a request means, as it says it. ApiError if it is none of ours."""
    if name is None or name == "":
        return call.service.settings.model_names[0]
    names = call.service.settings.model_names
    if isinstance(name, str) and name.removesuffix(_LATEST) in names:
        return name
    call.service.check_model(name)
    return str(name)


async def tags(call: Call) -> Reply:
    """The models that there are; it answers while the model loads."""
    about = await _about(call)
    return Json({"models": [_entry(name, about) for name in call.service.settings.model_names]})


async def running(call: Call) -> Reply:
    """The models that are loaded."""
    if call.service.host.model is None:
        return Json({"models": []})
    about = await _about(call)
    length = call.service.host.model.frontend.card.max_model_len
    loaded = {"expires_at": _FOREVER, "size_vram": about["size"], "context_length": length}
    names = call.service.settings.model_names
    return Json({"models": [{**_entry(name, about), **loaded} for name in names]})


async def show(call: Call) -> Reply:
    """One model in detail."""
    body = call.json()
    name = fields.text(body, "model") or fields.text(body, "name")
    if not name:
        raise invalid("model", "model must be there: the model's name")
    served(call, name)
    call.ignore((*others(body, ("model", "name", "verbose")), *idle(body, _IDLE)))
    model = call.service.model
    about = await _about(call)
    family, length = about["details"]["family"], model.frontend.card.max_model_len
    template = await call.service.offload(model.frontend.chat_template, call.service.settings.chat_template)
    return Json(
        {
            "modelfile": "",
            "parameters": "\n".join(f"{key} {value}" for key, value in model.frontend.card.defaults.items()),
            "template": next(iter(template.sources.values()), "") if template is not None else "",
            "details": about["details"],
            "model_info": {"general.architecture": family, f"{family}.context_length": length},
            "capabilities": _capabilities(call, model),
            "modified_at": about["modified_at"],
        }
    )


def _capabilities(call: Call, model: Model) -> list[str]:
    format = call.service.reading(model).selection.format
    both = format.channels is not None
    return [
        "completion",
        *(["tools"] if both or format.tools is not None else []),
        *(["thinking"] if both or format.thoughts is not None else []),
    ]


def _entry(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": tagged(name), "model": tagged(name), **about}


async def _about(call: Call) -> dict[str, Any]:
    model = call.service.host.model
    found: dict[str, Any] = await call.service.offload(_read, Path(model.frontend.card.folder) if model else None)
    return found


def _read(folder: Path | None) -> dict[str, Any]:
    """What the folder tells: its weights' size, and a digest of their names and sizes and of the configuration."""
    config: Mapping[str, Any] = {}
    size, modified_s = 0, time.time()
    digest = hashlib.sha256()
    if folder is not None and (folder / "config.json").is_file():
        try:
            config = read_json(folder / "config.json")
        except ModelError:  # it was readable when the model was loaded: then what it says is unknown
            config = {}
        digest.update((folder / "config.json").read_bytes())
        modified_s = (folder / "config.json").stat().st_mtime
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else ():
        stat = path.stat()
        size += stat.st_size
        digest.update(f"{path.name} {stat.st_size}".encode())
    family = str(config.get("model_type") or "unknown")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    return {
        "modified_at": shown_time(modified_s),
        "size": size,
        "digest": digest.hexdigest(),
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": family,
            "families": [family],
            "parameter_size": "",
            "quantization_level": _DTYPES.get(dtype, dtype),
        },
    }
