"""What stands beside tokenizer.json: added tokens, the names of special ones, chat templates.

    tokenizer_config.json          all three
    special_tokens_map.json        names, where tokenizer_config.json lists no added_tokens_decoder
    added_tokens.json              added tokens, likewise
    chat_template.jinja, additional_chat_templates/*.jinja, chat_template.json     templates

What is taken is what Transformers 5 takes; in particular `add_bos_token` and `add_eos_token` have no effect beside a
tokenizer.json, whose post-processor alone decides what is put around a prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from aphrodite.errors import ModelError
from aphrodite.files import FileError, read_file
from aphrodite.models.config import read_json
from aphrodite.text.classes import TokenizerClass, class_of

FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
MAX_BYTES = 256 << 20  # of a tokenizer.json
DEFAULT_TEMPLATE = "default"
_MAX_TEMPLATE_BYTES = 1 << 18  # to compile a long one takes seconds; those of models have a tenth of that
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class TokenizerConfig:
    """The files beside a tokenizer.json, together; all absent is all empty.

    data            tokenizer_config.json as it is
    tokenizer_class what is taken in place of parts of tokenizer.json, None if nothing is
    added           tokens by their id in the file; those that tokenizer.json has too may have other flags here
    named           special tokens by their name: bos_token, eos_token ...
    extra           special tokens without a name
    split_special   whether special tokens in a prompt are ordinary text
    templates       chat templates by name; one alone is "default"
    """

    data: Mapping[str, Any]
    tokenizer_class: TokenizerClass | None
    added: Mapping[int, AddedToken] | None
    named: Mapping[str, AddedToken]
    extra: tuple[str, ...]
    split_special: bool
    templates: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> TokenizerConfig:
        """A checkpoint folder's. ModelError names the file and field that is wrong."""
        data = _read(folder / FILE)
        where = str(folder / FILE)
        kind = class_of(data, _read(folder / "config.json"))
        file = folder / TOKENIZER_FILE
        if kind and is_there(file) and not kind.fits(read_tokenizer(file)):
            kind = None
        added = _added(data.get("added_tokens_decoder"), where)
        fields = data if added is not None else data | _read(folder / "special_tokens_map.json")
        extra = _contents(fields.get("extra_special_tokens") or fields.get("additional_special_tokens"), where)
        names: Mapping[str, Any] = {**(kind.names if kind else {}), **fields}
        named = {name: _named(value, name, where) for name, value in names.items() if _is_name(name, value)}
        named = {name: named[name] for name in sorted(named, key=_rank)}
        if added is None and (folder / "added_tokens.json").is_file():
            special = {*(token.content for token in named.values()), *extra}
            ids = _read(folder / "added_tokens.json")
            added = _legacy(ids, special, str(folder / "added_tokens.json"))
        split_special = data.get("split_special_tokens") is True
        templates = _templates(folder, data.get("chat_template"))
        return cls(data, kind, added, named, extra, split_special, templates)

    @property
    def names(self) -> dict[str, str]:
        """The texts of the special tokens that have a name, as templates are given them."""
        return {name: token.content for name, token in self.named.items()}

    def to_add(self, present: Mapping[int, AddedToken], filed: Mapping[int, AddedToken]) -> Iterator[AddedToken]:
        """Tokens to add to a tokenizer, in the order that gives them their ids.

        present  those that it has
        filed    those of tokenizer.json, which count where tokenizer_config.json lists none
        """
        added = self._listed(filed)
        known = {token.content for token in present.values()}
        same = {repr(token) for token in present.values()}
        named = {token.content for token in self.named.values()}
        for _, token in sorted(added.items(), key=lambda item: item[0]):
            known.add(token.content)
            if repr(token) not in same:
                yield _token(token, special=token.special or token.content in named)
        for token in (*self.named.values(), *(AddedToken(text, special=True) for text in self.extra)):
            if token.content not in known:
                known.add(token.content)
                yield _token(token, special=True)

    def special(self, filed: Mapping[int, AddedToken]) -> list[AddedToken]:
        """Special tokens by name, with the flags that they are listed with, and those without a name."""
        listed = {token.content: token for token in self._listed(filed).values()}
        extra = (AddedToken(text, special=True) for text in self.extra)
        return [listed.get(token.content, token) for token in (*self.named.values(), *extra)]

    def _listed(self, filed: Mapping[int, AddedToken]) -> Mapping[int, AddedToken]:
        added = self.added or {}
        return added if "added_tokens_decoder" in self.data else {**added, **filed}


def is_there(path: Path) -> bool:
    """Whether there is such a file. ModelError for a link that leads nowhere, or to itself, and for what is no file."""
    if path.is_file():
        return True
    if path.exists():
        raise ModelError(f"{path} is no file but a folder, a pipe or a device", subject=str(path))
    if path.is_symlink():
        raise ModelError(f"{path} is a link that leads to no file: is the download complete?", subject=str(path))
    return False


def read_tokenizer(path: Path) -> bytes:
    """A tokenizer.json. ModelError if it cannot be read, or is too large."""
    try:
        return read_file(path, MAX_BYTES)
    except (OSError, FileError) as error:
        raise ModelError(f"{path} {error}", subject=str(path)) from None


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if is_there(path) else {}


def _is_name(name: str, value: Any) -> bool:
    """Whether a field names a special token: those of _NAMES, and what a model adds, as image_token."""
    return value is not None and (name in _NAMES or (name.endswith("_token") and isinstance(value, (str, dict))))


def _rank(name: str) -> int:
    return _NAMES.index(name) if name in _NAMES else len(_NAMES)


def _content(value: Any, name: str, where: str) -> str:
    """A token's text, which may stand alone or in an object."""
    text = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise ModelError(f"{where}: {name} must be a text or an object with content, got {value!r}", subject=name)
    return text


def _contents(value: Any, where: str) -> tuple[str, ...]:
    items = list(value.values()) if isinstance(value, Mapping) else value or []
    if not isinstance(items, list) or not all(isinstance(item, (str, Mapping)) for item in items):
        raise ModelError(f"{where}: extra_special_tokens must be a list of texts, got {value!r}", subject=where)
    return tuple(_content(item, "extra_special_tokens", where) for item in items)


def _named(value: Any, name: str, where: str) -> AddedToken:
    flags = _flags(value, name, where) if isinstance(value, Mapping) else {}
    return AddedToken(_content(value, name, where), **(flags | {"special": True}))


def _added(value: Any, where: str) -> dict[int, AddedToken] | None:
    if value is None:
        return None
    name = "added_tokens_decoder"
    if not isinstance(value, Mapping) or not all(str(key).isdecimal() for key in value):
        raise ModelError(f"{where}: {name} must be an object with ids as keys, got {value!r}", subject=name)
    found = {}
    for key, item in value.items():
        if not isinstance(item, Mapping):
            raise ModelError(f"{where}: {name}[{key}] must be an object with content, got {item!r}", subject=name)
        found[int(key)] = AddedToken(_content(item, name, where), **_flags(item, f"{name}[{key}]", where))
    return found


def _flags(item: Mapping[str, Any], name: str, where: str) -> dict[str, bool]:
    flags = {flag: item[flag] for flag in _FLAGS if flag in item}
    if not all(type(flag) is bool for flag in flags.values()):
        raise ModelError(f"{where}: {name}: flags must be true or false, got {flags}", subject=name)
    return flags


def _token(token: AddedToken, *, special: bool) -> AddedToken:
    return AddedToken(token.content, **({flag: getattr(token, flag) for flag in _FLAGS} | {"special": special}))


def _legacy(ids: Mapping[str, Any], special: Collection[str], where: str) -> dict[int, AddedToken]:
    """What added_tokens.json lists: texts and their ids."""
    found = {}
    for text, value in ids.items():
        if type(value) is not int or value < 0:
            raise ModelError(f"{where}: {text!r} must have a token id of at least 0, got {value!r}", subject=text)
        found[value] = AddedToken(text, normalized=text not in special, special=text in special)
    return found


def _templates(folder: Path, value: Any) -> dict[str, str]:
    """Files of their own go before tokenizer_config.json, which goes before chat_template.json."""
    paths = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if is_there(folder / "chat_template.jinja"):
        paths[DEFAULT_TEMPLATE] = folder / "chat_template.jinja"
    if paths:
        return {name: read_template(path) for name, path in paths.items()}
    where = folder / FILE
    if value is None:
        where = folder / "chat_template.json"
        value = _read(where).get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT_TEMPLATE: _bounded(value, where)}
    items = value if isinstance(value, list) else [value]
    named = {
        item.get("name"): item.get("template") for item in items if isinstance(item, Mapping) and "template" in item
    }
    if len(named) != len(items) or not all(isinstance(part, str) for pair in named.items() for part in pair):
        raise ModelError(
            f"{where}: chat_template must be a text or a list of objects with name and template",
            subject="chat_template",
        )
    return {str(name): _bounded(str(template), where) for name, template in named.items()}


def _bounded(template: str, where: Path) -> str:
    if len(template) > _MAX_TEMPLATE_BYTES:
        raise ModelError(
            f"{where}: chat_template has {len(template)} characters, more than {_MAX_TEMPLATE_BYTES}",
            subject="chat_template",
        )
    return template


def read_template(path: Path) -> str:
    """A template's text from a file. ModelError names it."""
    try:
        return read_file(path, _MAX_TEMPLATE_BYTES).decode()
    except FileError as error:
        raise ModelError(f"{path} {error}", subject=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read as text: {error}", subject=str(path)) from None
