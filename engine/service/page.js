"use strict";
/* The page of the service: sends the pictures that were picked, and shows the explanation that component.js draws. */

const MODES = { pair: "of both pictures", fixed: "of the query alone", both: "of both, as published" };
const METHODS = { rise: "random masks (refines)", window: "sliding window", lime: "segments (LIME)", mask: "learned mask", tokens: "tokens left out" };

/* ---- an explanation ---- */

let shown = null, running = null, keptId = null, keptSeconds = 0;

async function explain() {
  if (running) running.abort();
  const { query, reference, rival } = pickers;
  limitModes(Boolean(rival.file));
  if (!query.file || !reference.file) {
    running = null;
    rest();
    return;
  }
  const mine = running = new AbortController();
  say("Explaining", "");
  begin();
  const answer = document.querySelector(".answer");
  if (answer.getBoundingClientRect().top > .6 * innerHeight) answer.scrollIntoView(); // below the pictures, on a phone
  try {
    const form = new FormData();
    form.append("query", query.file);
    form.append("references", reference.file);
    if (rival.file) form.append("rather_than", rival.file);
    form.append("options", JSON.stringify(chosen()));
    const reply = await call("/v1/page/explain", { method: "POST", body: form, signal: mine.signal });
    const originals = { query: query.address, reference: reference.address, "rather than": rival.address };
    for await (const [kind, data] of eventsOf(reply)) {
      if (kind === "error") throw new Error(data.error);
      show(data.view, originals);
      if (kind === "map") say("Refining", `${data.view.passes} passes`);
      else finish(data.id, data.view);
    }
  } catch (error) {
    if (mine.signal.aborted) return;
    fail(error);
  }
}

/* Beside a third picture the query alone has a map. */
let modeBefore = null;
function limitModes(limited) {
  if (limited === at("mode").disabled) return;
  at("mode").disabled = limited;
  if (limited) modeBefore = at("mode").value;
  at("mode").value = limited ? "fixed" : modeBefore;
}

function chosen() {
  const options = { method: at("method").value, mode: at("mode").value };
  if (!at("condition").hidden) options.condition = at("condition").value;
  return options;
}

function begin() {
  working(true);
  at("wrong").hidden = at("keep").hidden = at("empty").hidden = true;
  at("explanations").classList.add("stale");
}

/* Nothing runs, and no pair is chosen: what was shown is of another one. */
function rest() {
  say("", "");
  working(false);
  at("keep").hidden = true;
  if (shown) at("explanations").classList.add("stale");
}

function working(on) {
  if (!on && document.activeElement === at("stop")) at("status").focus(); // which does not vanish
  at("working").hidden = at("stop").hidden = !on;
}

/* What is shown stays as it is; the service ends its work when the connection is gone. */
function stop() {
  running.abort();
  working(false);
  say("Stopped", at("count").textContent && `after ${at("count").textContent}`);
}

function show(view, originals) {
  if (!shown) shown = new Explanation(at("explanations"));
  shown.update(view, { originals });
  at("explanations").classList.remove("stale");
}

/* ---- the index ---- */

let matchesAtOnce = 8;

function forgetMatches() {
  at("matches").replaceChildren();
  at("find").disabled = !pickers.query.file;
}

async function find() {
  if (running) running.abort();
  const mine = running = new AbortController(), { query } = pickers;
  say("Searching the index", "");
  begin();
  try {
    const form = new FormData();
    form.append("query", query.file);
    form.append("options", JSON.stringify({ k: matchesAtOnce, explain: true }));
    const { matches } = await (await call("/v1/search", { method: "POST", body: form, signal: mine.signal })).json();
    at("matches").replaceChildren(...matches.map(match => matchOf(match, query.address)));
    const first = at("matches").querySelector("button");
    if (first) first.click();
    else fail(new Error("the index has nothing to compare with"));
  } catch (error) {
    if (!mine.signal.aborted) fail(error);
  }
}

function matchOf(match, address) {
  const row = made("li"), button = made("button");
  button.type = "button";
  if (match.thumbnail) {
    const image = made("img");
    image.alt = "";
    call(match.thumbnail).then(async reply => { image.src = URL.createObjectURL(await reply.blob()); image.onload = () => URL.revokeObjectURL(image.src); }, () => {});
    button.append(image);
  }
  button.append(made("span", "", match.id), made("b", "", match.similarity.toFixed(3)));
  button.addEventListener("click", () => {
    for (const other of at("matches").querySelectorAll("button")) other.setAttribute("aria-current", other === button);
    openById(match.explanation.id, { query: address });
  });
  row.append(button);
  return row;
}

/* ---- what is kept ---- */

function finish(id, view) {
  working(false);
  say("Done", `after ${view.passes} passes`);
  keptId = id;
  at("link").href = `#explanation=${id}`;
  history.replaceState(null, "", at("link").href);
  const until = new Date(Date.now() + 1000 * keptSeconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  at("until").textContent = `The service keeps it for ${Math.round(keptSeconds / 60)} minutes, until ${until} at the latest; then the link ends. Download what you want to keep.`;
  at("keep").hidden = false;
}

function fail(error) {
  say("", "");
  working(false);
  at("wrong").textContent = error instanceof TypeError ? "The service cannot be reached." : inWords(error.message);
  at("wrong").hidden = false;
}

/* A sentence of the service, with this page's words for pictures. */
function inWords(sentence) {
  const told = sentence.replace("references[0]", "the reference").replace(/^query /, "the query ").replace("rather_than", "the third picture");
  return `${told[0].toUpperCase()}${told.slice(1)}.`;
}

function say(status, count) {
  if (at("status").textContent !== status) at("status").textContent = status;
  at("count").textContent = count;
}

async function openKept() {
  const found = /^#explanation=([\w-]+)$/.exec(location.hash);
  if (found && found[1] !== keptId) await openById(found[1], {});
}

async function openById(id, originals) {
  if (running) running.abort();
  const mine = running = new AbortController();
  say("Opening the explanation", "");
  begin();
  try {
    const view = await (await call(`/v1/page/explanations/${id}`, { signal: mine.signal })).json();
    show(view, originals);
    finish(id, view);
    at("until").textContent = `The service keeps explanations for ${Math.round(keptSeconds / 60)} minutes; then the link ends. The pictures are shown as the model saw them.`;
  } catch (error) {
    if (!mine.signal.aborted) fail(error);
  }
}

async function download(kind) {
  try {
    const content = await (await call(`/v1/explanations/${keptId}.${kind}`)).blob();
    const link = made("a");
    link.href = URL.createObjectURL(content);
    link.download = `explanation.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    fail(error);
  }
}

for (const button of document.querySelectorAll("[data-kind]")) button.addEventListener("click", () => download(button.dataset.kind));
at("copy").hidden = !navigator.clipboard;
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("link").href);
  at("copy").textContent = "Copied";
  setTimeout(() => { at("copy").textContent = "Copy link"; }, 2000);
});
window.addEventListener("hashchange", openKept);
at("find").addEventListener("click", find);
at("stop").addEventListener("click", stop);
at("ask").addEventListener("submit", event => event.preventDefault());
at("ask").addEventListener("change", event => { if (event.target.matches("select")) explain(); });
at("more").addEventListener("toggle", () => {
  if (at("more").open && pickers.query.file && pickers.reference.file) choose("rival");
  else if (!at("more").open && pickers.rival.file) pickers.rival.take(null);
});

/* ---- begin ---- */

function fillSelect(id, names, words = {}) {
  at(id).replaceChildren(...names.map(name => {
    const option = made("option", "", words[name] || name);
    option.value = name;
    return option;
  }));
}

async function start() {
  for (const slot of ["query", "reference"]) pickers[slot] = new Picker(slot, at("pickers"));
  pickers.rival = new Picker("rival", at("third"));
  choose("query");
  try {
    const about = await (await call("/v1/page")).json();
    keptSeconds = about.kept_seconds;
    matchesAtOnce = about.matches;
    at("about").textContent = `${about.model}: choose two pictures, and see what makes them alike to this model.`;
    at("kept").textContent = `Pictures go to this service alone. It keeps the explanation for ${Math.round(keptSeconds / 60)} minutes, with the pictures as the model saw them.`;
    fillSelect("mode", ["pair", "fixed", "both"].filter(mode => about.modes.includes(mode)), MODES);
    fillSelect("method", about.methods, METHODS);
    fillSelect("condition", about.conditions);
    at("condition").hidden = document.querySelector("label[for=condition]").hidden = !about.conditions.length;
    at("search").hidden = !about.index;
    fillGallery(about.gallery);
  } catch (error) {
    fail(error);
    return;
  }
  await openKept();
}
start();
