/* X11's numbers of the keys that have no character. */

export const KEYSYMS = {
  Backspace: 0xff08,
  Tab: 0xff09,
  Enter: 0xff0d,
  Escape: 0xff1b,
  PrintScreen: 0xff61,
  Delete: 0xffff,
  ShiftLeft: 0xffe1,
  ControlLeft: 0xffe3,
  AltLeft: 0xffe9,
  MetaLeft: 0xffeb,
};
for (let number = 1; number <= 12; number += 1) {
  KEYSYMS[`F${number}`] = 0xffbd + number;
}
