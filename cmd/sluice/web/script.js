// SPDX-License-Identifier: Apache-2.0
// Puts what the gateway sends in the place of what is shown. Without it the page
// loads itself anew every few seconds.
"use strict";

const names = ["head", "figures", "nodes", "path", "problems", "objects", "certificates", "connections"];
const search = document.getElementById("q");
const live = document.getElementById("live");
const wanted = new Map();
let events, late;

function show() {
  const selected = getSelection();
  for (const [name, html] of wanted) {
    const place = document.getElementById(name);
    // What somebody is about to copy stays.
    if (!selected.isCollapsed && place.contains(selected.anchorNode)) continue;
    place.innerHTML = html;
    wanted.delete(name);
  }
}

function say(text) {
  live.textContent = text;
  live.hidden = text === "";
}

function listen() {
  if (events) events.close();
  events = new EventSource("events?q=" + encodeURIComponent(search.value));
  for (const name of names) {
    events.addEventListener(name, (event) => {
      clearTimeout(late);
      say("");
      wanted.set(name, event.data);
      show();
    });
  }
  // A stream ends now and then, and the browser asks again.
  events.onerror = () => {
    clearTimeout(late);
    late = setTimeout(() => say("not live: no answer, asking again"), 4000);
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 4000);
  };
}

let pause;
function find() {
  const url = new URL(location);
  if (search.value) url.searchParams.set("q", search.value);
  else url.searchParams.delete("q");
  history.replaceState(null, "", url);
  listen();
}
search.form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(pause);
  find();
});
search.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(find, 200);
});

document.documentElement.classList.add("script");
listen();
