// The status page. What comes from peers is only ever put into text nodes.
"use strict";

const REFRESH_MS = 3000;
const TONES = {
  ok: "good", allow: "good", enforce: "good", running: "good", ready: "good", note: "warn", rewrite: "warn", hold: "warn",
  report: "bad", off: "bad", unknown: "warn", degraded: "bad", refuse: "bad", starting: "warn", error: "warn",
  "upstream-failed": "bad", none: "bad", strict: "good", remote: "", "starts when called": "", cancelled: "warn",
};

function make(name, className, ...children) {
  const found = document.createElement(name);
  if (className) found.className = className;
  for (const child of children) found.append(child instanceof Node ? child : document.createTextNode(String(child ?? "")));
  return found;
}

const pill = (word) => (word ? make("span", `pill ${TONES[word] ?? ""}`, word) : "");
const time = (text) => (text ? String(text).replace("T", " ").replace(/\.\d+Z$/, "Z") : "");
const clock = (text) => (text ? String(text).slice(11, 19) : "");
const milliseconds = (us) => (us === null || us === undefined ? "" : (us / 1000).toFixed(us < 10000 ? 1 : 0));

function table(id, columns, rows, rowClass, empty) {
  const head = make("tr", "");
  for (const [title, , kind] of columns) {
    const cell = make("th", kind === "number" ? "number" : "", title);
    cell.scope = "col";
    head.append(cell);
  }
  const body = make("tbody", "");
  for (const row of rows) {
    const line = make("tr", rowClass ? rowClass(row) : "");
    for (const [, show, kind] of columns) line.append(make("td", kind ?? "", show(row)));
    body.append(line);
  }
  if (!rows.length) {
    const cell = make("td", "soft", empty);
    cell.colSpan = columns.length;
    body.append(make("tr", "", cell));
  }
  const place = document.getElementById(id);
  place.replaceChildren(make("thead", "", head), body);
}

function showOverall(all) {
  const weak = all.controls.filter((one) => one.state === "degraded" || one.mode !== "enforce");
  const unknown = all.controls.filter((one) => one.state === "unknown");
  const bare = all.servers.filter((one) => one.sandbox === "none");
  const place = document.getElementById("overall");
  let tone = "good";
  let words = `Protecting: ${all.controls.length} controls hold`;
  if (!all.status.ready) [tone, words] = ["bad", "Not ready: a worker does not serve"];
  else if (weak.length || bare.length) {
    const names = [...weak.map((one) => one.slug), ...bare.map((one) => `${one.name} without a cage`)];
    [tone, words] = ["bad", `Weakened: ${names.join(", ")}`];
  } else if (unknown.length) [tone, words] = ["warn", `Not known yet: ${unknown.map((one) => one.slug).join(", ")}`];
  const fresh = make("span", `pill ${tone}`, words);
  if (place.textContent !== words) place.replaceChildren(fresh);
}

function showFacts(status) {
  const facts = [
    ["Address", status.public_url], ["Profile", status.profile], ["Durability", status.durability],
    ["Settings", `revision ${status.revision}`], ["Since", time(status.since)],
    ["Worker restarts", status.restarts], ["Version", status.version],
  ];
  document.getElementById("facts").replaceChildren(
    ...facts.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value))),
  );
  const fault = document.getElementById("fault");
  const error = status.last_reload_error;
  fault.hidden = !error;
  fault.textContent = error ? `The changed settings were refused (${error.code}): ${error.tell}` : "";
}

function showCalls(calls) {
  const rows = [...calls];
  if (document.getElementById("refused-first").checked) {
    rows.sort((one, other) => Number(other.verdict === "refuse") - Number(one.verdict === "refuse"));
  }
  const columns = [
    ["Time", (row) => clock(row.time), "mono"], ["Verdict", (row) => pill(row.verdict)],
    ["Caller", (row) => row.principal, "name"], ["Server", (row) => row.server], ["Method", (row) => row.method],
    ["Item", (row) => row.item], ["Control", (row) => row.control, "name"], ["Reason", (row) => row.reason, "soft"],
    ["Outcome", (row) => row.outcome ?? ""], ["ms", (row) => milliseconds(row.duration_us), "number"],
    ["Event", (row) => row.event, "mono"],
  ];
  table("calls", columns, rows, (row) => (row.verdict === "refuse" ? "refused" : ""), "Nothing is on record yet.");
}

function show(all) {
  showOverall(all);
  showFacts(all.status);
  showCalls(all.calls);
  table("controls", [
    ["Control", (row) => row.slug, "name"], ["Kind", (row) => row.kind, "soft"], ["Mode", (row) => pill(row.mode)],
    ["State", (row) => pill(row.state)], ["Refusals", (row) => row.refusals, "number"],
    ["Covers", (row) => [...row.covers, ...row.partly.map((id) => `(${id})`)].join(" "), "soft"],
    ["Labs", (row) => row.labs.join(" "), "soft"], ["Seen", (row) => row.why, "soft"],
  ], all.controls, null, "None.");
  table("servers", [
    ["Server", (row) => row.name], ["Kind", (row) => row.kind], ["State", (row) => pill(row.state)],
    ["Processes", (row) => (row.kind === "stdio" ? row.processes : ""), "number"],
    ["Sandbox", (row) => pill(row.sandbox)],
  ], all.servers, (row) => (row.sandbox === "none" ? "refused" : ""), "No server is configured.");
  table("workers", [
    ["Worker", (row) => `w${row.index}`], ["State", (row) => pill(row.ready ? "ready" : "starting")],
    ["Process", (row) => row.pid, "number"], ["Generation", (row) => row.generation, "number"],
    ["Sessions", (row) => row.sessions, "number"], ["Streams", (row) => row.streams, "number"],
    ["Requests", (row) => row.requests, "number"],
  ], all.workers, null, "None.");
  table("limits", [
    ["Scope", (row) => row.scope], ["Name", (row) => row.name],
    ["Calls", (row) => row.calls ?? "as default", "number"], ["In seconds", (row) => row.per_seconds ?? "as default", "number"],
    ["At once", (row) => row.concurrent ?? "as default", "number"],
  ], all.limits, null, "None.");
}

let shown = null;

async function refresh() {
  try {
    const answer = await fetch("/api/v1/overview", { credentials: "same-origin", cache: "no-store" });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(String(answer.status));
    shown = await answer.json();
    show(shown);
  } catch {
    document.getElementById("overall").replaceChildren(make("span", "pill bad", "Doorward does not answer"));
  }
  return setTimeout(refresh, REFRESH_MS);
}

document.getElementById("refused-first").addEventListener("change", () => shown && showCalls(shown.calls));
refresh();
