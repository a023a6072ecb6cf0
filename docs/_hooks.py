"""For mkdocs: links to files of the repository that are no pages become their names.

The site holds docs/ alone, so a link such as ../agents/ppo.py would lead nowhere in it. A link to what does not
exist at all is left as it is, and `mkdocs build --strict` reports it.
"""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""
    docs, source = Path(config.docs_dir).resolve(), Path(page.file.abs_src_path)

    def name(match: re.Match[str]) -> str:
        target = (source.parent / match.group(2)).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return match.group(0)
        path = target.relative_to(docs.parent).as_posix()
        words = match.group(1)
        return f"`{path}`" if words.strip("`") in (path, target.name) else f"{words} (`{path}`)"

    return LINK.sub(name, markdown)
