/* Who is at the screen: the panel in the bar refreshes itself (base/live.js); here its news reach the screen. */

import htmx from "htmx.org";
import "../base/morph.js";
import { follow } from "../base/live.js";
import { keepTimesRight, showTimes } from "../base/times.js";

const gettext = window.gettext ?? ((text) => text);
const fill = (text, name) => text.replace("%s", () => name);

const panelOf = (root) => root.querySelector("[data-console-people]");

/** What the panel says: who controls, who asks, who looks on. Null until it has been fetched. */
function readPanel(root) {
  const panel = panelOf(root);
  if (panel?.dataset.known !== "true") {
    return null;
  }
  const { controls, holder, mayControl, asked, watching, asking } = panel.dataset;
  return {
    controls: controls === "true",
    holder,
    mayControl: mayControl === "true",
    asked: asked === "true",
    watching,
    asking,
  };
}

/** One line over the picture; empty when there is nothing to say. */
function words({ controls, holder, mayControl, asked, watching, asking }) {
  const lines = [];
  if (asking) {
    lines.push(fill(gettext("%s asks for control. Hand it over in the list of people."), asking));
  }
  if (mayControl && !controls) {
    const line = holder ? fill(gettext("%s controls; you watch."), holder) : gettext("Nobody controls this screen.");
    lines.push(asked ? `${line} ${gettext("You have asked for control.")}` : line);
  }
  if (watching) {
    lines.push(fill(gettext("%s is watching."), watching));
  }
  return lines.join(" ");
}

function lineOf(root) {
  let line = root.querySelector("[data-people-line]");
  if (!line) {
    line = document.createElement("div");
    line.className = "people-line";
    line.dataset.peopleLine = "";
    const text = document.createElement("p");
    text.setAttribute("role", "status");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "btn";
    button.addEventListener("click", () => wish(root)?.requestSubmit());
    line.append(text, button);
    root.querySelector(".console-screen").append(line);
  }
  return line;
}

/** A message to everybody at the screen, until its reader has put it away. */
function showNotice(root) {
  const { notice, noticeBy, noticeKey } = panelOf(root).dataset;
  let note = root.querySelector("[data-people-notice]");
  if (!note) {
    note = document.createElement("div");
    note.className = "people-notice";
    note.dataset.peopleNotice = "";
    const text = document.createElement("p");
    text.setAttribute("role", "status");
    const close = document.createElement("button");
    close.type = "button";
    close.className = "btn";
    close.textContent = gettext("Put away");
    close.addEventListener("click", () => {
      note.dataset.away = note.dataset.key;
      note.hidden = true;
    });
    note.append(text, close);
    root.querySelector(".console-screen").append(note);
  }
  note.dataset.key = noticeKey ?? "";
  note.hidden = !notice || note.dataset.away === noticeKey;
  const said = notice ? `${noticeBy}: ${notice}` : "";
  if (note.firstChild.textContent !== said) {
    note.firstChild.textContent = said;
  }
}

/** Who came to take control takes it as soon as they are there: once. */
function takeOnce(root) {
  const form = root.dataset.take ? panelOf(root).querySelector("[data-people-take]") : null;
  if (form) {
    delete root.dataset.take;
    // It may have come this very moment: before htmx knows it, it would be sent as any form, and load the page anew.
    htmx.process(form);
    form.requestSubmit();
  }
}

/** The panel's own form for getting control, if there is one now. */
function wish(root) {
  return panelOf(root)?.querySelector("[data-people-ask], [data-people-take]");
}

function show(root, news) {
  const line = lineOf(root);
  const text = words(news);
  const [said, button] = line.children;
  if (said.textContent !== text) {
    said.textContent = text;
  }
  line.hidden = !text;
  const form = wish(root);
  button.hidden = !form || news.controls;
  button.textContent = form?.querySelector("button").textContent.trim() ?? "";
}

/** Tells the screen when control is lost or gained: `casement:control` on the root, {controls, holder}. */
function announce(root, before) {
  const news = readPanel(root);
  if (!news) {
    return before;
  }
  show(root, news);
  showNotice(root);
  takeOnce(root);
  const key = JSON.stringify([news.controls, news.holder]);
  if (key !== before) {
    root.dispatchEvent(
      new CustomEvent("casement:control", { detail: { controls: news.controls, holder: news.holder }, bubbles: true }),
    );
  }
  return key;
}

function answerRefusals(root) {
  root.addEventListener("htmx:responseError", ({ detail }) => {
    const problem = detail.elt.closest("[data-console-people]")?.querySelector("[data-people-problem]");
    if (problem && detail.requestConfig.verb !== "get") {
      const answer = new DOMParser().parseFromString(detail.xhr.responseText ?? "", "text/html");
      const said = answer.querySelector("[data-error-text]")?.textContent.trim();
      problem.textContent = said || gettext("The portal refused this request.");
      problem.hidden = false;
      htmx.trigger(panelOf(root), "live");
    }
  });
  root.addEventListener("click", async (event) => {
    const field = event.target.closest("[data-people-copy]")?.parentElement.querySelector("[data-people-link]");
    if (field) {
      field.select();
      // Without https there is no such interface; the link is selected, so that Ctrl+C copies it.
      await navigator.clipboard?.writeText(field.value).catch(() => {});
    }
  });
}

let following = Boolean(document.body.dataset.liveUrl);

// A screen that takes longer is worth a word from the portal about why.
const FIRST_FRAME_MS = 1500;

/** The screen comes first: whatever else asks the portal in that moment makes it come later. */
function afterFirstFrame(root, begin) {
  let timer = 0;
  const once = () => {
    clearTimeout(timer);
    root.removeEventListener("casement:first-frame", once);
    begin();
  };
  root.addEventListener("casement:first-frame", once);
  timer = setTimeout(once, FIRST_FRAME_MS);
}

/** Wires the panel of `root` to the screen there. */
export function wirePeople(root) {
  const panel = panelOf(root);
  if (!panel) {
    return;
  }
  if (!following) {
    // A page with nothing but the screen follows no changes by itself. Who is signed out hears it from the screen.
    following = true;
    afterFirstFrame(root, () => follow(panel.dataset.liveUrl, () => {}));
    keepTimesRight();
    document.addEventListener("htmx:afterSwap", () => showTimes());
  }
  let known = announce(root, "");
  const renew = () => {
    known = announce(root, known);
  };
  root.addEventListener("htmx:afterSwap", renew);
  root.addEventListener("htmx:afterSettle", renew);
  root.addEventListener("casement:prepared", () => {
    known = "";
    // The new session is in the portal's list by the time the picture is there.
    renew();
  });
  root.addEventListener("casement:first-frame", () => htmx.trigger(panelOf(root), "live"));
  answerRefusals(root);
}
