"use strict";
// Follows the run: server-sent events say what it does, and when there is a new version of the page.
// It runs before the other script, so that it sees the parts of the page as they were sent.
const liveBox = document.getElementById("live");
const keyOf = (part) => part.tagName + part.id;
const partsSent = new Map([...document.querySelector("main").children].map((part) => [keyOf(part), part.outerHTML]));
let version = Number(liveBox.dataset.version);
let newest = version;
let isFetching = false;

const say = (text) => { liveBox.querySelector(".connection").textContent = text; };

function showStatus({ state, label, position, measurements, percent, warnings }) {
  liveBox.className = `live ${state}`;
  liveBox.querySelector(".state b").textContent = label;
  liveBox.querySelector(".position").textContent = position;
  liveBox.querySelector("progress").value = percent === null ? 0 : percent;
  const element = (tag, ...children) => { const made = document.createElement(tag); made.append(...children); return made; };
  liveBox.querySelector(".now").replaceChildren(...measurements.map(([name, value]) => element("div", element("dt", name), element("dd", value))));
  const alerts = liveBox.querySelector(".alerts");
  if (warnings.join("\n") !== [...alerts.children].map((alert) => alert.textContent).join("\n")) {
    alerts.replaceChildren(...warnings.map((warning) => Object.assign(element("p", warning), { className: "note" })));
  }
}

// Keeps what the reader has set up in a part of the page that is replaced.
function keep(old, fresh) {
  const title = (figure) => figure.querySelector("figcaption b").textContent;
  const charts = new Map([...old.querySelectorAll(".chart")].filter((figure) => figure.chart).map((figure) => [title(figure), figure]));
  readTimelines(fresh);
  for (const figure of fresh.querySelectorAll(".chart")) {
    const before = charts.get(title(figure));
    if (!before || !figure.querySelector("script")) continue;
    before.chart.update(figure);
    figure.replaceWith(before);
  }
  const [form, controls] = [old, fresh].map((part) => part.querySelector(":scope > form.controls"));
  if (form && controls) controls.replaceWith(form);
  const name = (details) => details.id || details.querySelector("summary").textContent;
  const open = new Set([...old.querySelectorAll("details[open]")].map(name));
  for (const details of fresh.querySelectorAll("details")) if (open.has(name(details))) details.open = true;
}

function replaceParts(page) {
  const main = document.querySelector("main");
  const focused = document.activeElement;
  const left = new Map([...main.children].map((part) => [keyOf(part), part]));
  let before = null;
  for (const part of [...page.querySelector("main").children]) {
    const key = keyOf(part);
    const html = part.outerHTML;
    let now = left.get(key);
    left.delete(key);
    const isSame = part.id === "live" || partsSent.get(key) === html;
    if (!now || !isSame) {
      const fresh = document.adoptNode(part);
      partsSent.set(key, html);
      if (now) {
        keep(now, fresh);
        now.replaceWith(fresh);
      } else if (before) before.after(fresh);
      else main.prepend(fresh);
      start(fresh);
      now = fresh;
    }
    before = now;
  }
  for (const part of left.values()) part.remove();
  const follow = page.querySelector("#live .follow a");
  if (follow && !liveBox.querySelector(".follow a")) liveBox.querySelector(".follow").append(" ", follow, " has the images too.");
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

async function fetchNewest() {
  if (isFetching) return;
  isFetching = true;
  try {
    while (version < newest) {
      const answer = await fetch("/", { cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fetched = page.getElementById("live");
      if (!fetched) break;
      replaceParts(page);
      version = Number(fetched.dataset.version);
      liveBox.dataset.version = version;
    }
  } catch {
    say("The connection is lost; this is the last state of the run that the page has seen.");
  } finally {
    isFetching = false;
  }
}

const events = new EventSource("/events");
events.addEventListener("open", () => say("The page updates itself."));
events.addEventListener("status", (event) => showStatus(JSON.parse(event.data)));
events.addEventListener("version", (event) => {
  newest = Number(event.data);
  fetchNewest();
});
events.addEventListener("end", async () => {
  events.close();
  await fetchNewest();
  say("The server has ended; this is the last state of the run that the page has seen.");
});
events.addEventListener("error", () => say("The connection is lost; this is the last state of the run that the page has seen. Trying again."));
