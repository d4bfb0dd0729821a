"""Texts that become markup or script wherever escaping is forgotten."""

from html.parser import HTMLParser

CORPUS = (
    '<img src=x onerror="alert(1)">',
    "<script>alert(1)</script>",
    '"><svg/onload=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "</title><script>alert(1)</script>",
    "{{ 7|add:7 }}{% debug %}",
    "javascript:alert(1)",
)
_MARKUP = ("<img src=x", "<script>alert", "<svg/onload", "' autofocus onfocus='", 'href="javascript:alert')


def faults(page: str) -> list[str]:
    """What of the corpus stands in a page as markup."""
    return [text for text in _MARKUP if text in page]


class _Reader(HTMLParser):
    """Reads a page as browsers do, and keeps what would run."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        for name, value in attrs:
            is_link = name in {"href", "src", "action", "formaction", "xlink:href"}
            if name.startswith("on") or (is_link and (value or "").strip().lower().startswith("javascript:")):
                self.runs.append(f"<{tag} {name}={value!r}>")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.runs.append(f"<script>{data[:80]}")


def what_would_run(page: str) -> list[str]:
    """Scripts in a page, however they got there. Ours are all in files of their own."""
    reader = _Reader()
    reader.feed(page)
    return reader.runs
