"""Texts that become markup or script wherever escaping is forgotten."""

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
