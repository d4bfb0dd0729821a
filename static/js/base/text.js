/* Words, sizes and times for people. The catalogue is Django's, loaded before every module. */

export const gettext = window.gettext ?? ((text) => text);
export const ngettext = window.ngettext ?? ((one, many, count) => (count === 1 ? one : many));
export const interpolate = (text, values) => text.replace(/%\((\w+)\)s/g, (_whole, name) => values[name]);

const locale = document.documentElement.lang || undefined;
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
const exact = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });
const UNITS = [
  ["year", 31_536_000],
  ["month", 2_592_000],
  ["week", 604_800],
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
];

export function relativeTime(moment, now = Date.now()) {
  const seconds = (moment - now) / 1000;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) {
      return relative.format(Math.trunc(seconds / length), unit);
    }
  }
  return Math.abs(seconds) < 5 ? gettext("just now") : relative.format(Math.trunc(seconds), "second");
}

export const exactTime = (moment) => exact.format(moment);

/** As the template filter `duration` writes it, in whole seconds. */
export function duration(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  if (whole < 60) {
    return interpolate(gettext("%(seconds)s s"), { seconds: whole });
  }
  if (whole < 3600) {
    return interpolate(gettext("%(minutes)s min %(seconds)s s"), {
      minutes: Math.floor(whole / 60),
      seconds: whole % 60,
    });
  }
  return interpolate(gettext("%(hours)s h %(minutes)s min"), {
    hours: Math.floor(whole / 3600),
    minutes: Math.floor((whole % 3600) / 60),
  });
}

/** Memory given in MiB. */
export function memory(mib) {
  return mib < 1024 ? `${mib} MiB` : `${Math.round((mib / 1024) * 10) / 10} GiB`;
}
