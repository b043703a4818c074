"""Links from the documentation to sources: right in the repository, plain text on the site.

A page such as docs/walk.md links to files beside docs/, which the site does not hold. Here such a link turns
into its text, after a check that the file is there; mkdocs itself checks the links within docs/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    root = Path(config.config_file_path).parent
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def as_text(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["target"]))
        if target.startswith("docs/"):
            return link[0]
        if not (root / target).exists():
            raise PluginError(f"{page.file.src_uri} links to {target}, which does not exist")
        return link["text"]

    return LINK.sub(as_text, markdown)
