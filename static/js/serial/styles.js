/* A terminal without <style> elements and style attributes: the portal's policy forbids both, and scripts need neither.

The terminal writes its sheets into elements that it makes by `document.createElement("style")` when it is opened, and
some colours of letters by `setAttribute("style", …)`. Here the first become sheets that a script may adopt, the second
go through `style`. The terminal's version is fixed in package.json, and a test in Chromium fails when it finds another
way. */

/** Does `work` at once; what it takes for <style> elements are stand-ins. */
export function withoutStyleElements(work) {
  const createElement = document.createElement.bind(document);
  document.createElement = (name, options) => (name === "style" ? sheet() : createElement(name, options));
  try {
    work();
  } finally {
    delete document.createElement;
  }
}

/** On this page a span's style attribute is set as a script may set it. */
export function withoutStyleAttributes() {
  const { setAttribute } = Element.prototype;
  HTMLSpanElement.prototype.setAttribute = function set(name, value) {
    if (name === "style") {
      this.style.cssText = value;
    } else {
      setAttribute.call(this, name, value);
    }
  };
}

/** Stands where the terminal puts its <style>: its text is an adopted sheet's. */
function sheet() {
  const rules = new CSSStyleSheet();
  const element = document.createElementNS("http://www.w3.org/1999/xhtml", "span");
  element.hidden = true;
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, rules];
  Object.defineProperty(element, "textContent", { set: (text) => rules.replaceSync(text) });
  return element;
}
