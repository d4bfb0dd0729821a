/* Sets the theme before the first paint. It is loaded as a plain blocking script in the head, and nothing else is. */
{
  const kept = (() => {
    try {
      return localStorage.getItem("casement-theme");
    } catch {
      return null; // Storage may be forbidden; the system's wish is good enough then.
    }
  })();
  const dark = kept ? kept === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
  document.documentElement.classList.add("js");
}
