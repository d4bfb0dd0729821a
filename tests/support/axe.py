"""axe-core in a page of a real browser: what keeps people with a screen reader, a keyboard or weak eyes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page

ROOT = Path(__file__).resolve().parents[2]
# It is a tool for developers: `bin/frontend --lint` installs it.
SCRIPT = ROOT / "node_modules" / "axe-core" / "axe.min.js"
GRAVE = ("serious", "critical")

_RUN = """async ([rules, grave]) => {
  const options = { resultTypes: ["violations"], preload: false, rules: { "target-size": { enabled: true } } };
  if (rules.length) Object.assign(options, { runOnly: rules, rules: {} });
  const { violations } = await axe.run(document, options);
  return violations
    .filter(({ impact }) => grave.includes(impact))
    .map(({ id, nodes }) => ({ id, nodes: nodes.map((node) => [node.html, node.failureSummary]) }));
}"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that elements of a page break; `where` has the first of them and what is wrong with it."""

    rule: str
    where: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}"


def load_into(context: BrowserContext) -> None:
    """Into every page that is opened. The browser does it by itself, so that a page's content policy stays as it is."""
    context.add_init_script(SCRIPT.read_text())


def findings(page: Page, *rules: str) -> list[Finding]:
    """Serious and critical ones on the page as it is now; of these rules only, if any are named."""
    found: list[dict[str, Any]] = page.evaluate(_RUN, [list(rules), list(GRAVE)])
    return [Finding(one["id"], f"{len(one['nodes'])} x {' '.join(map(str, one['nodes'][0]))[:400]}") for one in found]
