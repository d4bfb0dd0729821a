/* What a person has typed or chosen, beside what the page was made with. */

/** Whether the person has chosen something else in this select than the page was made with. */
function hasChosen(select) {
  const options = [...select.options];
  const given = options.filter((option) => option.defaultSelected);
  return given.length > 0
    ? options.some((option) => option.selected !== option.defaultSelected)
    : select.selectedIndex > 0;
}

/** … and than the page is made with now: who chose what was then saved has no choice of their own any more. */
export function hasOwnChoice(select, fresh) {
  return hasChosen(select) && select.value !== fresh.value;
}

/** Whether this has been typed into and not been saved. */
export function isTyped(field) {
  return field.value !== field.defaultValue;
}

/** What was typed has been saved when a fresh page is made with it: from then on the field follows the page again. */
export function settle(field, fresh) {
  if (isTyped(field) && field.value === fresh.defaultValue) {
    field.defaultValue = fresh.defaultValue;
  }
}
