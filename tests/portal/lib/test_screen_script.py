"""A page with a screen names all that its script loads; a page that leads to one has the browser fetch it ahead."""

from __future__ import annotations

import pytest

from portal.lib.templatetags import kit

PARTS = {"console": {"parts": ["chunks/a-1.js"], "later": ["chunks/rfb-2.js"]}}


@pytest.fixture(autouse=True)
def _built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "_known_parts", lambda: PARTS)


def test_the_script_comes_with_its_parts() -> None:
    html = kit.screen_script()
    for part in ("js/chunks/a-1.js", "js/chunks/rfb-2.js"):
        assert f'<link rel="modulepreload" href="/static/{part}">' in html
    assert html.endswith('<script type="module" src="/static/js/console.js"></script>')


def test_it_is_fetched_ahead() -> None:
    html = kit.screen_soon()
    for part in ("js/door.js", "js/console.js", "js/chunks/a-1.js", "js/chunks/rfb-2.js"):
        assert f'<link rel="prefetch" as="script" href="/static/{part}">' in html
    assert '<link rel="prefetch" as="style" href="/static/css/console.css">' in html


def test_what_opens_the_screen_ahead_comes_with_the_ticket_only() -> None:
    html = kit.screen_ahead('{"ticket": "a<b"}')
    assert html.startswith('<meta name="casement-door" content="{&quot;ticket&quot;: &quot;a&lt;b&quot;}">')
    assert html.endswith('<script async src="/static/js/door.js"></script>')
    assert kit.screen_ahead("") == ""
