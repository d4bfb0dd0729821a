/* What is typed into a page that changes while somebody types: run by `bin/frontend --lint`. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { hasOwnChoice, isTyped, settle } from "../../static/js/base/typed.js";

/** A text field as browsers have it: it shows what it was made with until somebody types. */
class Field {
  constructor(made) {
    this.defaultValue = made;
  }

  get value() {
    return this._typed ?? this.defaultValue;
  }

  set value(text) {
    this._typed = text;
  }
}

/** A page that is made anew comes over an old one: what idiomorph does with what it is left to do. */
function comesOver(field, made) {
  const fresh = new Field(made);
  settle(field, fresh);
  if (!isTyped(field)) {
    field.defaultValue = made;
    field.value = made;
  }
}

/** A select of these values; the one that the page was made with, and the one that is chosen. */
function select(values, made, now = made) {
  const options = values.map((value) => ({ value, defaultSelected: value === made, selected: value === now }));
  return { options, selectedIndex: values.indexOf(now), value: now };
}

test("what is typed stays while others change the same", () => {
  const field = new Field("100");
  field.value = "250";
  comesOver(field, "300");
  assert.equal(field.value, "250");
  comesOver(field, "400");
  assert.equal(field.value, "250");
});

test("what was typed and saved follows the page again", () => {
  const field = new Field("100");
  field.value = "250";
  comesOver(field, "250");
  assert.equal(isTyped(field), false);
  comesOver(field, "300");
  assert.equal(field.value, "300", "somebody else changed it afterwards");
});

test("an emptied field that was saved empty follows the page again", () => {
  const field = new Field("a description");
  field.value = "";
  comesOver(field, "a description");
  assert.equal(field.value, "", "not saved yet");
  comesOver(field, "");
  comesOver(field, "another");
  assert.equal(field.value, "another");
});

test("typing on after saving is typing again", () => {
  const field = new Field("a");
  field.value = "ab";
  comesOver(field, "ab");
  field.value = "abc";
  comesOver(field, "ab");
  assert.equal(field.value, "abc");
});

test("a field that nobody typed into follows the page", () => {
  const field = new Field("a");
  comesOver(field, "b");
  assert.equal(field.value, "b");
});

test("a choice is the person's until the page is made with it", () => {
  const sizes = ["small", "medium", "large"];
  const mine = select(sizes, "small", "large");
  assert.equal(hasOwnChoice(mine, select(sizes, "small")), true);
  assert.equal(hasOwnChoice(mine, select(sizes, "medium")), true);
  assert.equal(hasOwnChoice(mine, select(sizes, "large")), false);
  assert.equal(hasOwnChoice(select(sizes, "small"), select(sizes, "medium")), false);
  assert.equal(hasOwnChoice(select(sizes, undefined, "small"), select(sizes, "medium")), false, "the first by itself");
});
