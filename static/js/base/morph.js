/* What a morph swap must leave alone: open menus, what is being typed or chosen, times, and places that live by themselves. */

import { Idiomorph } from "idiomorph/htmx";
import { hasOwnChoice, isTyped, settle } from "./typed.js";

const MENU_STATE = new Set(["class", "aria-expanded", "style", "data-popper-placement", "data-bs-popper"]);

const chosen = new WeakSet(); // selects whose choice is the person's, found out before their options are morphed one by one

/** What a person has typed or chosen and not sent yet. */
function isTheirs(name, node) {
  if (name === "selected") {
    return chosen.has(node.closest("select"));
  }
  return name === "value" && node.matches("input, textarea") && isTyped(node);
}

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
  if (isTheirs(name, node)) {
    return false;
  }
  return !(name === "checked" && node.matches("input[type=radio], input[type=checkbox]"));
};
// What is shown only once stays until the page is left.
Idiomorph.defaults.callbacks.beforeNodeRemoved = (node) => !(node instanceof Element && "stay" in node.dataset);
Idiomorph.defaults.callbacks.beforeNodeMorphed = (old, fresh) => {
  if (!(old instanceof Element) || !(fresh instanceof Element)) {
    return true;
  }
  if (old.dataset?.keep && old.dataset.keep === fresh.dataset.keep) {
    return false;
  }
  if (old.localName === "select") {
    chosen[hasOwnChoice(old, fresh) ? "add" : "delete"](old);
  }
  if (old.matches("input, textarea") && old.localName === fresh.localName) {
    settle(old, fresh);
  }
  if (old.localName === "time") {
    return old.getAttribute("datetime") !== fresh.getAttribute("datetime");
  }
  return true;
};
