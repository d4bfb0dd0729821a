"""What holds for every template and every text: marked for translation, and nothing that the CSP would refuse."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.template import engines
from django.template.backends.django import DjangoTemplates
from django.template.base import FILTER_SEPARATOR, TokenType
from django.template.base import Lexer as TemplateLexer

ROOT = Path(settings.BASE_DIR)
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
MODULES = sorted(path for path in (ROOT / "portal").rglob("*.py") if "migrations" not in path.parts)

# --- templates ----------------------------------------------------------------------------------------------------

# Names, and what is the same in every language.
SAME_EVERYWHERE = frozenset({"Casement", "Ctrl", "Alt", "Shift", "Esc", "UTC", "SHA-256"})
READ_ATTRIBUTES = frozenset({"title", "alt", "aria-label", "placeholder", "label", "aria-description"})
NOT_READ = frozenset({"script", "style", "code", "kbd", "template-comment"})
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_MARK = "\x01"  # Stands where the template puts something that is no plain text of its own.


def _bare(source: str) -> str:
    """The template's own markup and text: variables, tags, comments and translated blocks are taken out."""
    kept: list[str] = []
    skip_until = ""
    for token in TemplateLexer(source).tokenize():
        word = token.contents.split(maxsplit=1)[0] if token.contents.strip() else ""
        if skip_until:
            skip_until = "" if token.token_type == TokenType.BLOCK and word == skip_until else skip_until
        elif token.token_type == TokenType.TEXT:
            kept.append(token.contents)
        elif token.token_type == TokenType.BLOCK and token.contents == "block body_class":
            skip_until = "endblock"  # Class names, which stand in an attribute of the page this one extends.
        elif token.token_type == TokenType.BLOCK and word in {"blocktranslate", "comment"}:
            skip_until = f"end{word}"
            kept.append(_MARK)
        elif token.token_type == TokenType.VAR:
            kept.append(_MARK)
    return "".join(kept)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name: value or "" for name, value in attrs}
        self.texts += [value for name, value in names.items() if name in READ_ATTRIBUTES]
        if tag == "input" and names.get("type") in {"submit", "button", "reset"}:
            self.texts.append(names.get("value", ""))
        if tag == "style" or (tag == "script" and "src" not in names):
            self.faults.append(f"<{tag}> inside the page")
        self.faults += [f"{name}= on <{tag}>" for name in names if name == "style" or name.startswith(("on", "hx-on"))]
        self.faults += [f"javascript: in {name}=" for name, value in names.items() if value.startswith("javascript:")]
        if tag not in {"input", "meta", "link", "img", "br", "hr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        while tag in self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not NOT_READ.intersection(self.open):
            self.texts.append(data)


def _parsed(source: str) -> _Page:
    page = _Page()
    page.feed(_bare(source))
    page.close()
    return page


def unmarked_texts(source: str) -> list[str]:
    """Words that a reader sees and that no translator ever will."""
    found = []
    for text in _parsed(source).texts:
        rest = " ".join(word for word in text.split() if word.strip(".,:;·…()") not in SAME_EVERYWHERE)
        if _LETTERS.search(rest):
            found.append(rest.strip())
    return found


def unmarked_literals(source: str) -> list[str]:
    """Plain words given to a tag or filter that shows them: `{% include … with text="Hello" %}`, `default:"None"`."""
    found = []
    for token in TemplateLexer(source).tokenize():
        if token.token_type == TokenType.VAR:
            parts = token.contents.split(FILTER_SEPARATOR)[1:]
            found += [
                part for part in parts if re.match(r'(default|default_if_none|yesno|add):"[A-Z][a-z]', part.strip())
            ]
        elif token.token_type == TokenType.BLOCK and token.contents.startswith("include "):
            found += re.findall(r'\b(?:text|title|action|what|label|pending)="[A-Za-z]{2}[^"]*"', token.contents)
    return found


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_word_of_a_template_can_be_translated(path: Path) -> None:
    source = path.read_text()
    assert unmarked_texts(source) == []
    assert unmarked_literals(source) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_template_holds_what_the_content_policy_refuses(path: Path) -> None:
    assert _parsed(path.read_text()).faults == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_template_compiles(path: Path) -> None:
    engine = engines["django"]
    assert isinstance(engine, DjangoTemplates)
    engine.get_template(str(path.relative_to(ROOT / "templates")))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_marked_safe_in_a_template(path: Path) -> None:
    source = path.read_text()
    assert not re.search(r"\|\s*safe\b|autoescape\s+off|\|\s*safeseq\b", source)


@pytest.mark.parametrize(
    "sample",
    [
        "<p>Hello</p>",
        "<p>{{ name }} is running</p>",
        '<button title="Close">{{ x }}</button>',
        "<input placeholder='Name'>",
        '<a aria-label="Go {{ there }}">{% translate "x" %}</a>',
        "{% if x %}Yes{% endif %}",
        '<input type="submit" value="Send">',
        "<svg><title>A picture</title></svg>",
    ],
)
def test_the_check_sees_unmarked_text(sample: str) -> None:
    assert unmarked_texts(sample)


@pytest.mark.parametrize(
    "sample",
    [
        '<p>{% translate "Hello" %}</p>',
        "<p>{% blocktranslate %}Hello <b>you</b>{% endblocktranslate %}</p>",
        "{# Hello #}<p>{{ name }} · 12</p>",
        "{% comment %}Hello{% endcomment %}",
        '<a title="{% translate \'Close\' %}" class="Hello">Casement</a>',
        "<code>ssh {{ user }}</code>",
    ],
)
def test_the_check_leaves_marked_text_alone(sample: str) -> None:
    assert unmarked_texts(sample) == []


@pytest.mark.parametrize(
    "sample", ['{{ name|default:"None" }}', '{% include "_x.html" with text="Hello" %}', '{{ a|yesno:"Yes,No" }}']
)
def test_the_check_sees_unmarked_literals(sample: str) -> None:
    assert unmarked_literals(sample)


@pytest.mark.parametrize(
    "sample",
    [
        "<script>alert(1)</script>",
        "<style>p{}</style>",
        '<p style="width: {{ x }}%"></p>',
        '<a onclick="go()"></a>',
        '<a href="javascript:go()"></a>',
        '<a hx-on:click="go()"></a>',
        '<a {% if x %}onfocus="go()"{% endif %}></a>',
    ],
)
def test_the_check_sees_what_the_policy_refuses(sample: str) -> None:
    assert _parsed(sample).faults


# --- Python -------------------------------------------------------------------------------------------------------

SHOWN_KEYWORDS = frozenset(
    {"label", "help_text", "verbose_name", "verbose_name_plural", "empty_label", "short_description"}
)
MESSAGE_LEVELS = frozenset({"debug", "info", "success", "warning", "error", "add_message"})
MARKERS = frozenset({"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "pgettext", "pgettext_lazy"})


def _name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_plain(node: ast.expr) -> bool:
    """True for words in the source itself: a literal, an f-string, or one of these put together by `%` or `+`."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(_LETTERS.search(node.value))
    if isinstance(node, ast.JoinedStr):
        return any(_is_plain(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _is_plain(node.left)
    if isinstance(node, ast.IfExp):
        return _is_plain(node.body) or _is_plain(node.orelse)
    return isinstance(node, ast.Call) and _name_of(node.func) == "format" and _is_plain_receiver(node.func)


def _is_plain_receiver(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _is_plain(node.value)


def _shown(call: ast.Call, errors: frozenset[str]) -> Iterator[ast.expr]:
    """The arguments of a call that people read."""
    name = _name_of(call.func)
    if name in MARKERS:
        return
    yield from (keyword.value for keyword in call.keywords if keyword.arg in SHOWN_KEYWORDS)
    if name in errors or name == "ValidationError":
        yield from call.args[:1]
    if name in MESSAGE_LEVELS and isinstance(call.func, ast.Attribute) and _name_of(call.func.value) == "messages":
        yield from call.args[2 if name == "add_message" else 1 :][:1]


def unmarked_words(source: str, errors: frozenset[str]) -> list[str]:
    """`line: source` of texts for people that are not wrapped in gettext."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        texts: list[ast.expr] = []
        if isinstance(node, ast.Call):
            texts = list(_shown(node, errors))
        elif isinstance(node, ast.Assign) and any(_name_of(target) in SHOWN_KEYWORDS for target in node.targets):
            texts = [node.value]
        found += [f"{text.lineno}: {ast.unparse(text)}" for text in texts if _is_plain(text)]
    return found


def _portal_errors() -> frozenset[str]:
    """PortalError and everything named after it: what `raise XError(text)` shows to people."""
    names = {"PortalError"}
    trees = [ast.parse(path.read_text()) for path in MODULES]
    before = 0
    while len(names) != before:
        before = len(names)
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and any(_name_of(base) in names for base in node.bases):
                    names.add(node.name)
    return frozenset(names)


@pytest.fixture(scope="module")
def portal_errors() -> frozenset[str]:
    return _portal_errors()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_for_people_in_python_can_be_translated(path: Path, portal_errors: frozenset[str]) -> None:
    assert unmarked_words(path.read_text(), portal_errors) == []


def test_the_check_knows_the_errors_that_people_read(portal_errors: frozenset[str]) -> None:
    assert {"PortalError", "ConflictError", "NotFoundError", "InvalidError"} <= portal_errors


@pytest.mark.parametrize(
    "sample",
    [
        'forms.CharField(label="Name")',
        'models.CharField(verbose_name="name", help_text=_("fine"))',
        'class Meta:\n    verbose_name = "machine"',
        'raise ConflictError("It is busy.")',
        'raise InvalidError(f"{name} is bad")',
        'raise ValidationError("Bad")',
        'messages.success(request, "Done")',
        'messages.add_message(request, level, "Done %s" % name)',
        'raise ConflictError("It is {}".format(state))',
    ],
)
def test_the_python_check_sees_unmarked_text(sample: str) -> None:
    assert unmarked_words(sample, frozenset({"ConflictError", "InvalidError"}))


@pytest.mark.parametrize(
    "sample",
    [
        'forms.CharField(label=_("Name"))',
        'raise ConflictError(_("It is busy."))',
        'raise ConflictError(_("%(n)s is busy.") % {"n": name})',
        'raise ValueError("for developers")',
        'logger.info("for operators")',
        'messages.success(request, _("Done"))',
        "raise NotFoundError",
    ],
)
def test_the_python_check_leaves_marked_text_alone(sample: str) -> None:
    assert unmarked_words(sample, frozenset({"ConflictError", "NotFoundError"})) == []
