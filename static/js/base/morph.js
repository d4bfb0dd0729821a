/* What a morph swap must leave alone: open menus, what is being typed or chosen, times, and places that live by themselves. */

import { Idiomorph } from "idiomorph/htmx";

const MENU_STATE = new Set(["class", "aria-expanded", "style", "data-popper-placement", "data-bs-popper"]);

function isOpenMenuPart(node) {
  if (node.matches(".dropdown-menu.show, .collapse.show, .collapsing")) {
    return true;
  }
  return node.matches('[data-bs-toggle][aria-expanded="true"]');
}

Idiomorph.defaults.ignoreActiveValue = true;
Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => {
  if (MENU_STATE.has(name) && isOpenMenuPart(node)) {
    return false;
  }
  if (name === "open" && node.matches("details, dialog")) {
    return false;
  }
  // What it shows is newer than what the page was made with (thumbnails.js).
  if (name === "src" && node.matches("img[data-thumbnail]")) {
    return false;
  }
  return !(name === "checked" && node.matches("input[type=radio], input[type=checkbox]"));
};
Idiomorph.defaults.callbacks.beforeNodeMorphed = (old, fresh) => {
  if (!(old instanceof Element) || !(fresh instanceof Element)) {
    return true;
  }
  if (old.dataset?.keep && old.dataset.keep === fresh.dataset.keep) {
    return false;
  }
  if (old.localName === "time") {
    return old.getAttribute("datetime") !== fresh.getAttribute("datetime");
  }
  return true;
};
