// What the page does: it follows the service's event stream, keeps the last five minutes of it, and shows them.
// Events only change `known` and ask for a redraw; drawing happens at most once a frame, and not while the tab is
// hidden. Whatever comes from the service goes in as text, never as markup. All addresses are relative to the page's.
"use strict";

const SILENCE_MS = 3000; // the stream speaks twice a second: after so long without a word it counts as lost
const GONE_SILENCE_MS = 10000; // while it says that nobody answers it, it says so more seldom
const RETRY_MS = [1000, 2000, 3000, 5000]; // the last one goes on
const KEPT_S = 300; // of figures
const KEPT_NOTICES = 200; // as many as the service keeps
const PAGE = 50; // instruments
const REFRESH_MS = 2000; // of instruments
const TYPING_MS = 150; // after the last key stroke a search begins
const STEP_KEYS = { ArrowLeft: 1, ArrowDown: 1, ArrowRight: -1, ArrowUp: -1, PageDown: 30, PageUp: -30 }; // seconds

const known = {
  link: "connecting", // live, gone: the HTTP process answers, the service does not; lost: nobody answers
  reason: "", // of a link that is gone or lost
  status: null, // an Overview
  samples: [], // {at (s), rates by connection, sync, lag}, one a second, oldest first
  notices: [], // newest first
};
const byId = (id) => document.getElementById(id);

// Forms: a value to text, as data-as names it. A dash is for what is not known.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const round = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const prices = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 4 });
const fine = (value) => (Math.abs(value) < 9.95 ? tenths : whole).format(value);

function bytes(value) {
  const unit = [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]].find(([, size]) => value >= size);
  return unit ? `${tenths.format(value / unit[1])} ${unit[0]}` : `${whole.format(value)} B`;
}

function span(seconds) {
  const [d, h, m, s] = [86400, 3600, 60, 1].map((unit) => Math.floor(seconds / unit));
  if (d) return `${whole.format(d)} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}

const FORMS = {
  text: (value) => value,
  count: (value) => whole.format(value),
  ticks: (value) => `${whole.format(value)} ticks`,
  rate: (value) => fine(value),
  ms: (value) => (value < 10000 ? `${fine(value)} ms` : `${tenths.format(value / 1000)} s`),
  bytes,
  byteRate: (value) => `${bytes(value)}/s`,
  span,
  duration: (value) => (value < 60 ? `${tenths.format(value)} s` : span(value)),
  age: (value) => `${FORMS.duration(value)} ago`,
  hours: (value) => {
    if (value < 1) return `${whole.format(value * 60)} min`;
    return value < 48 ? `${fine(value)} h` : `${whole.format(value / 24)} d`;
  },
  time: (value) => timeOf(value),
  market: ({ market, market_until: until, timestamp: now }) => {
    if (market === "unknown" || (market === "open" && !until)) return "–";
    return until ? `${market} until ${whenOf(until, now)}` : market;
  },
};
const ABSENT = { age: "never", text: "" };

// Times are shown in the zone that their own offset names, which is the exchange's and hardly the reader's.
const timeOf = (stamp) => stamp.slice(11, 19);
const dateOf = (stamp) => stamp.slice(0, 10);
const zoneOf = (stamp) => stamp.slice(26);

/** Return a time to come: "15:30", "Mon 09:15", "2025-10-20 09:15". */
function whenOf(stamp, now) {
  const [then, today] = [stamp, now].map((each) => new Date(`${dateOf(each)}T00:00Z`));
  const days = (then - today) / 86400000;
  const day = days === 0 ? "" : then.toLocaleDateString("en", { weekday: "short", timeZone: "UTC" });
  return `${days >= 0 && days <= 6 ? day : dateOf(stamp)} ${stamp.slice(11, 16)}`.trim();
}

// What a state looks like. One that is not known here is shown as it is called.

const LOOKS = {
  healthy: "ok", live: "ok", running: "ok", recording: "ok",
  degraded: "warn", paused: "bad", restarting: "warn", waiting: "warn", rate_limited: "bad",
  down: "bad", silent: "bad", unauthorised: "bad", failed: "bad", stopped: "bad",
  starting: "busy", connecting: "busy",
  standby: "idle", idle: "idle", off: "idle",
};
const EVENT_LOOKS = {
  gap: "bad", uncovered: "bad", storing_paused: "bad", sync_failed: "bad",
  process_died: "warn", process_hung: "warn", disconnected: "warn", not_connected: "warn",
};

// Putting things on the page. What is as it should be is not touched: the browser has less to do.

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
  return element;
}

const draw = (name, attributes, text) => {
  const element = setAttributes(document.createElementNS("http://www.w3.org/2000/svg", name), attributes);
  if (text) element.textContent = text;
  return element;
};

function putIcon(holder, look) {
  setAttributes(holder.querySelector("use"), { href: `#icon-${look}` });
}

function putState(holder, state) {
  if (!holder.firstChild) {
    const icon = draw("svg", { class: "icon", "aria-hidden": "true" });
    icon.append(draw("use", {}));
    holder.append(icon, make("span"));
  }
  const look = LOOKS[state] ?? "idle";
  putIcon(holder, look);
  put(holder.lastChild, state.replaceAll("_", " "));
  setAttributes(holder, { class: `state is-${look}` });
}

/** Return a function that shows an object in the data-value elements below `root`. */
function binding(root) {
  const places = [...root.querySelectorAll("[data-value]")].map((element) => ({
    element, path: element.dataset.value.split("."), form: element.dataset.as,
  }));
  return (object) => {
    for (const { element, path, form } of places) {
      const value = path.reduce((part, name) => part?.[name], object);
      if (form === "state") putState(element, value ?? "off");
      else put(element, value === null || value === undefined ? (ABSENT[form] ?? "–") : FORMS[form](value));
    }
  };
}

/** Make `body` have one row for each of `items`, with so many cells, and let `fill` write them; rows stay in place. */
function putRows(body, items, classes, fill) {
  while (body.rows.length > items.length) body.lastChild.remove();
  while (body.rows.length < items.length) {
    const row = body.insertRow();
    for (const name of classes) row.append(make("td", name));
  }
  items.forEach((item, place) => fill([...body.rows[place].cells], item));
}

// Asking. A token, once the service has asked for one, is kept for this tab alone and never part of an address.

class Refused extends Error {}

const TOKEN_KEY = "mds-token";
let unsavedToken = null; // where the browser lets no page keep anything, it lasts as long as the page

function keptToken() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? unsavedToken;
  } catch {
    return unsavedToken;
  }
}

function keepToken(token) {
  unsavedToken = token;
  try {
    if (token === null) sessionStorage.removeItem(TOKEN_KEY);
    else sessionStorage.setItem(TOKEN_KEY, token);
  } catch {
    // It is kept above.
  }
}

async function ask(address, { headers = {}, signal } = {}) {
  const token = keptToken();
  byId("docs").hidden = token !== null; // a link carries no token
  const response = await fetch(address, {
    signal, cache: "no-store", headers: { ...headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) },
  });
  if (response.status === 401) throw new Refused();
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response;
}

/** Show the form, and return when a token has been typed in. */
async function askForToken() {
  const form = byId("ask-token");
  put(byId("token-problem"), keptToken() ? "The service does not take this token." : "");
  keepToken(null);
  byId("figures").hidden = true;
  form.hidden = false;
  document.title = "token needed · market data recorder";
  byId("token").focus();
  await new Promise((typed) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      // What no header can carry is no token of the service's: asking with nothing is refused just as well.
      keepToken(byId("token").value.replace(/[^\x21-\x7e]/g, "") || "-");
      byId("token").value = "";
      typed();
    };
  });
}

// The event stream. Read by hand, because EventSource sends no Authorization header.

/** Yield {event, data, id} of a body of server-sent events. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let fields = {};
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (fields.data !== undefined) yield fields;
        fields = {};
      } else if (!line.startsWith(":")) {
        const [, name, text] = /^([^:]*):? ?(.*)$/.exec(line);
        fields[name] = name === "data" && fields.data !== undefined ? `${fields.data}\n${text}` : text;
      }
    }
  }
}

/** Follow one stream until it breaks or falls silent, which raises. `onEvent` hears of each event. */
async function followStream(onEvent) {
  const giveUp = new AbortController();
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => giveUp.abort(), known.link === "gone" ? GONE_SILENCE_MS : SILENCE_MS);
  };
  heard();
  try {
    const last = known.notices[0]?.number;
    const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": String(last) } : {}) };
    const response = await ask("events", { headers, signal: giveUp.signal });
    showFigures();
    for await (const { event, data } of eventsOf(response.body)) {
      onEvent(event, JSON.parse(data));
      heard();
    }
    throw new Error("the stream has ended");
  } finally {
    clearTimeout(silence);
    giveUp.abort();
  }
}

async function follow() {
  for (let failures = 0; ; ) {
    try {
      await followStream((event, data) => {
        failures = 0;
        hear[event]?.(data);
        changed();
      });
    } catch (error) {
      if (error instanceof Refused) {
        await askForToken();
        continue;
      }
      known.link = "lost";
      known.reason = error.name === "AbortError" ? `silent for ${SILENCE_MS / 1000} s` : error.message;
      changed();
    }
    await new Promise((over) => setTimeout(over, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]));
    failures += 1;
  }
}

const hear = {
  series(series) {
    const last = Math.round(Date.parse(series.timestamp) / 1000);
    const length = series.commit_ms.length;
    const samples = series.commit_ms.map((sync, place) => ({
      at: last - length + 1 + place,
      rates: Object.fromEntries(Object.entries(series.ticks_per_second).map(([name, rates]) => [name, rates[place]])),
      sync,
      lag: series.lag_ms[place],
    }));
    // A service that was started anew knows less than this page does.
    keepSamples([...known.samples.filter((sample) => !length || sample.at < samples[0].at), ...samples]);
  },
  status(status) {
    known.link = "live";
    known.status = status;
    addSample({
      at: Math.round(Date.parse(status.health.timestamp) / 1000),
      rates: Object.fromEntries(Object.values(status.connections).map((c) => [c.connection_id, c.tick_rate_1s])),
      sync: status.storage.commit_ms_max_1s,
      lag: status.metrics.lag_ms,
    });
  },
  notice(notice) {
    // After a new start of the service its numbers are others, its times are not.
    const isKnown = ({ timestamp, event, source }) =>
      timestamp === notice.timestamp && event === notice.event && source === notice.source;
    if (known.notices.some(isKnown)) return;
    const place = known.notices.findIndex((other) => other.number < notice.number);
    known.notices.splice(place < 0 ? known.notices.length : place, 0, notice);
    known.notices.length = Math.min(known.notices.length, KEPT_NOTICES);
    events.isStale = true;
  },
  gone({ reason }) {
    known.link = "gone";
    known.reason = reason;
  },
};

function addSample(sample) {
  const last = known.samples.at(-1);
  if (last && sample.at < last.at) known.samples = []; // the clock was set back
  if (last?.at === sample.at) {
    last.rates = sample.rates;
    last.sync = Math.max(last.sync, sample.sync);
    last.lag = Math.max(last.lag, sample.lag);
  } else keepSamples([...known.samples, sample]);
}

function keepSamples(samples) {
  const oldest = (samples.at(-1)?.at ?? 0) - KEPT_S;
  known.samples = samples.filter((sample) => sample.at > oldest);
}

// Drawing.

let isDue = false;

/** Have everything drawn that has changed; the title at once, for the tab may be hidden. */
function changed() {
  putTitle();
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    putAll();
  });
}

function showFigures() {
  byId("ask-token").hidden = true;
  byId("figures").hidden = false;
}

function putTitle() {
  const { link, status } = known;
  document.title = link === "live"
    ? `${status.health.status} · ${whole.format(status.metrics.ticks_per_second_1s)}/s`
    : `${link === "gone" ? "no service" : link} · market data recorder`;
}

const putFigures = binding(byId("figures"));
const cards = new Map();

function putAll() {
  const { status } = known;
  putHealth();
  if (!status) return;
  putFigures(status);
  for (const connection of Object.values(status.connections)) putCard(connection);
  putProcesses(status.processes);
  events.put();
  for (const chart of charts) chart.put();
}

function putHealth() {
  const { link, status } = known;
  const health = status?.health;
  const none = [health?.resting ? `By the clock, ${health.resting}.` : "Everything that is subscribed is being recorded."];
  const asOf = health ? `Figures are as of ${timeOf(health.timestamp)}, when it was ${health.status}.` : "";
  const [word, look, reasons] = {
    live: () => [health.status, LOOKS[health.status], health.reasons.length ? health.reasons : none],
    connecting: () => ["connecting", "busy", ["Asking the service."]],
    gone: () => ["no service", "lost", [`The service does not answer: ${known.reason}`, asOf]],
    lost: () => ["lost", "lost", [`Lost the service (${known.reason}); trying to reach it again.`, asOf]],
  }[link]();
  setAttributes(document.body, { "data-link": link, "data-health": health?.status ?? "" });
  put(byId("health-word"), word);
  putIcon(byId("health"), look);
  const lines = reasons.filter(Boolean);
  const list = byId("reasons");
  while (list.children.length > lines.length) list.lastChild.remove();
  while (list.children.length < lines.length) list.append(make("li"));
  lines.forEach((line, place) => put(list.children[place], line));
  // Reasons have figures in them that change all the time: spoken they are with a new word only.
  if (byId("spoken").dataset.word !== word) {
    byId("spoken").dataset.word = word;
    put(byId("spoken"), `${word}: ${lines.join(" ")}`);
  }
}

function putCard(connection) {
  const name = connection.connection_id;
  if (!cards.has(name)) {
    const card = byId("connection-card").content.firstElementChild.cloneNode(true);
    card.querySelector(".swatch").classList.add(`of-${name}`);
    put(card.querySelector(".name"), `${name} ${connection.role}`);
    byId("connections").append(card);
    cards.set(name, { card, put: binding(card) });
  }
  const { card, put: putValues } = cards.get(name);
  const isMissing = connection.gap_open && connection.active;
  const said = isMissing ? "a gap is open: ticks are being missed" : connection.reason;
  const since = connection.start_time ? `since ${timeOf(connection.start_time)}` : "";
  putValues({ ...connection, reason: said || since || (connection.state === "standby" ? "ready to take over" : "") });
  card.classList.toggle("is-troubled", isMissing || LOOKS[connection.state] === "bad");
  card.classList.toggle("is-unused", connection.state === "off");
}

function putProcesses(processes) {
  const body = byId("processes").tBodies[0];
  putRows(body, Object.entries(processes), ["", "", "number", "number"], (cells, [role, process]) => {
    put(cells[0], role);
    if (!cells[1].firstChild) cells[1].append(make("span", "state"));
    putState(cells[1].firstChild, process.state);
    put(cells[2], process.pid === null ? "–" : String(process.pid));
    put(cells[3], whole.format(process.restarts));
  });
}

const events = {
  isStale: true,
  put() {
    if (!this.isStale) return;
    this.isStale = false;
    const shown = known.notices.filter((notice) => !byId("gaps-only").checked || notice.event === "gap");
    const newest = known.status.health.timestamp;
    put(byId("zone"), `times are UTC${zoneOf(newest)}`);
    put(byId("no-events"), known.notices.length ? "No gap among the last events." : "Nothing has happened yet.");
    byId("no-events").hidden = shown.length > 0;
    byId("events").replaceChildren(...shown.map((notice) => {
      const line = make("li");
      const date = dateOf(notice.timestamp);
      const time = make("time", "", `${date === dateOf(newest) ? "" : `${date.slice(5)} `}${timeOf(notice.timestamp)}`);
      time.dateTime = notice.timestamp;
      time.title = notice.timestamp;
      const look = notice.event === "health" ? LOOKS[notice.details.status] : EVENT_LOOKS[notice.event];
      const text = make("span", look ? `text is-${look}` : "text", notice.text);
      line.append(time, make("span", "source", notice.source), text);
      return line;
    }));
  },
};

// Charts.

const SVG_PAD = { left: 46, right: 34, top: 8, bottom: 20 };
const latest = () => (known.link === "live" ? "now" : "last");
const HOLE_S = 2.5; // between samples: nobody knows what was in between

/** Return the next round number that is no less, and whose half is one too. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 10)));
  return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

const SCALES = {
  /** From zero, for what is stacked. */
  linear(most) {
    const top = roundUp(most);
    return { marks: [0, top / 2, top], place: (value) => value / top };
  },
  /** From a tenth on, decade by decade: a sync takes a millisecond or a second, and both matter. */
  logarithmic(most) {
    const decades = Math.max(4, Math.ceil(Math.log10(Math.max(most, 1))) + 1);
    const marks = Array.from({ length: decades + 1 }, (_, power) => 10 ** (power - 1));
    return { marks, place: (value) => Math.log10(Math.max(value, 0.1) * 10) / decades };
  },
};

class Chart {
  /** `lines` are {key, label, end: a short one, of: a sample's value}; `unit` goes behind a figure. */
  constructor(figure, { lines, unit, scale, stacked }) {
    Object.assign(this, { lines, unit, scale, stacked });
    this.plot = figure.querySelector(".plot");
    this.svg = figure.querySelector("svg");
    this.summary = figure.querySelector(".summary");
    this.ago = null; // seconds before the latest sample that the reader points at
    const legend = figure.querySelector(".legend");
    this.values = lines.map(({ key, label }) => {
      const item = make("li");
      const value = make("b");
      item.append(make("span", `swatch of-${key}`), ` ${label} `, value);
      value.style.minWidth = "5ch";
      legend.append(item);
      return value;
    });
    this.at = make("li", "at");
    legend.append(this.at);
    setAttributes(this.plot, { "aria-valuemin": -KEPT_S, "aria-valuemax": 0, "aria-valuenow": 0 });
    new ResizeObserver(() => this.put()).observe(this.plot);
    this.plot.addEventListener("pointermove", (event) => {
      const { left, width } = this.plot.getBoundingClientRect();
      const inner = width - SVG_PAD.left - SVG_PAD.right;
      this.point(((left + SVG_PAD.left + inner - event.clientX) / inner) * KEPT_S);
    });
    this.plot.addEventListener("pointerleave", () => this.point(null));
    this.plot.addEventListener("blur", () => this.point(null));
    this.plot.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (!known.samples.length) return;
    const ends = { Home: KEPT_S - 1, End: 0, Escape: null };
    if (event.key in ends) this.point(ends[event.key]);
    else if (event.key in STEP_KEYS) this.point((this.ago ?? 0) + STEP_KEYS[event.key]);
    else return;
    event.preventDefault();
    // Only what was asked for is spoken, not every new second.
    setAttributes(this.plot, { "aria-valuenow": -Math.round(this.ago ?? 0), "aria-valuetext": this.told() });
  }

  point(ago) {
    this.ago = ago === null ? null : Math.min(Math.max(ago, 0), KEPT_S - 1);
    this.put();
  }

  /** Return the sample that the reader points at, the latest one without. */
  chosen() {
    const { samples } = known;
    const at = samples.at(-1).at - (this.ago ?? 0);
    const distance = (sample) => Math.abs(sample.at - at);
    const nearest = samples.reduce((best, sample) => (distance(sample) < distance(best) ? sample : best));
    return distance(nearest) <= HOLE_S ? nearest : null;
  }

  told() {
    const sample = this.chosen();
    const when = this.ago ? `${Math.round(this.ago)} s ago` : latest();
    if (!sample) return `${when}: not known`;
    return `${when}: ${this.lines.map(({ label, of }) => `${label} ${fine(of(sample))} ${this.unit}`).join(", ")}`;
  }

  put() {
    const { samples } = known;
    const { width, height } = this.plot.getBoundingClientRect();
    if (!samples.length || !width) return;
    const newest = samples.at(-1).at;
    const inner = { width: width - SVG_PAD.left - SVG_PAD.right, height: height - SVG_PAD.top - SVG_PAD.bottom };
    // Of what is stacked, each line stands on those before it.
    const tops = samples.map((sample) => {
      let sum = 0;
      return this.lines.map(({ of }) => (this.stacked ? (sum += of(sample)) : of(sample)));
    });
    const { marks, place } = this.scale(Math.max(...tops.flat()));
    const x = (at) => SVG_PAD.left + inner.width * (1 - (newest - at) / KEPT_S);
    const y = (value) => SVG_PAD.top + inner.height * (1 - place(value));
    this.svg.replaceChildren(
      ...this.grid(marks, x, y, newest, inner),
      ...this.lines.toReversed().flatMap((_, back) => this.drawn(this.lines.length - 1 - back, samples, tops, x, y)),
      ...this.ends(tops.at(-1), y, width),
    );
    if (this.ago !== null) {
      const at = x(newest - this.ago);
      const bottom = SVG_PAD.top + inner.height;
      this.svg.append(draw("line", { class: "cursor", x1: at, x2: at, y1: SVG_PAD.top, y2: bottom }));
    }
    this.putFigures(tops);
  }

  grid(marks, x, y, newest, inner) {
    const right = SVG_PAD.left + inner.width;
    const rows = marks.flatMap((mark) => [
      draw("line", { class: "rule", x1: SVG_PAD.left, x2: right, y1: y(mark), y2: y(mark) }),
      draw("text", { x: SVG_PAD.left - 6, y: y(mark) + 4, "text-anchor": "end" }, round.format(mark)),
    ]);
    const every = inner.width < 400 ? 2 : 1;
    const minutes = Array.from({ length: KEPT_S / 60 + 1 }, (_, minute) => minute);
    const bottom = SVG_PAD.top + inner.height + 15;
    const columns = minutes.filter((minute) => minute % every === 0).map((minute) => {
      const place = { x: x(newest - 60 * minute), y: bottom, "text-anchor": "middle" };
      return draw("text", place, minute ? `−${minute} min` : latest());
    });
    return [...rows, ...columns];
  }

  /** Return line `number`, and the band below it where it is stacked, in pieces where samples are missing. */
  drawn(number, samples, tops, x, y) {
    const pieces = [];
    samples.forEach((sample, place) => {
      if (!place || sample.at - samples[place - 1].at > HOLE_S) pieces.push([]);
      pieces.at(-1).push(place);
    });
    const value = (place, which) => (which < 0 ? 0 : tops[place][which]);
    const point = (place, which) => `${x(samples[place].at).toFixed(1)} ${y(value(place, which)).toFixed(1)}`;
    const path = (places, which) => places.map((place) => point(place, which)).join("L");
    return pieces.flatMap((places) => {
      const color = `of-${this.lines[number].key}`;
      const upper = path(places, number);
      const line = draw("path", { class: `line ${color}`, d: `M${upper}` });
      if (!this.stacked) return [line];
      return [draw("path", { class: `band ${color}`, d: `M${upper}L${path(places.toReversed(), number - 1)}Z` }), line];
    });
  }

  /** Return names at the right end of the lines, so that nobody has to go by colours; apart, if need be. */
  ends(tops, y, width) {
    const middles = tops.map((top, number) => (this.stacked ? (y(top) + y(tops[number - 1] ?? 0)) / 2 : y(top)));
    const order = middles.map((middle, number) => ({ middle, number })).sort((a, b) => b.middle - a.middle);
    let above = Infinity;
    return order.map(({ middle, number }) => {
      above = Math.min(middle + 4, above - 11);
      const { key, end } = this.lines[number];
      return draw("text", { class: `end of-${key}`, x: width - SVG_PAD.right + 5, y: above }, end);
    });
  }

  putFigures(tops) {
    const sample = this.chosen();
    this.lines.forEach(({ of }, place) => put(this.values[place], sample ? fine(of(sample)) : "–"));
    put(this.at, this.ago === null ? latest() : `${Math.round(this.ago)} s ago`);
    const figures = this.stacked
      ? [["In all", tops.map((each) => each.at(-1))]]
      : this.lines.map(({ label }, place) => [label, tops.map((each) => each[place])]);
    const told = figures.map(([label, values]) => {
      const range = `${fine(Math.min(...values))} to ${fine(Math.max(...values))} ${this.unit}`;
      return `${label} ${range}, ${latest()} ${fine(values.at(-1))}`;
    });
    put(this.summary, `${told.join("; ")}.`);
  }
}

const charts = [
  new Chart(byId("rate-chart"), {
    lines: ["1", "2", "3"].map((name) => ({
      key: name, label: `connection ${name}`, end: name, of: (sample) => sample.rates[name] ?? 0,
    })),
    unit: "ticks/s", scale: SCALES.linear, stacked: true,
  }),
  new Chart(byId("latency-chart"), {
    lines: [
      { key: "sync", label: "sync", end: "sync", of: (sample) => sample.sync },
      { key: "lag", label: "received, not yet durable", end: "lag", of: (sample) => sample.lag },
    ],
    unit: "ms", scale: SCALES.logarithmic, stacked: false,
  }),
];

// Instruments: a page of them, asked for every two seconds while somebody can see it.

const instruments = {
  offset: 0,
  asking: null,
  timer: null,

  address() {
    const wanted = new URLSearchParams({ offset: this.offset, limit: PAGE });
    const search = byId("search").value.trim();
    if (search) wanted.set("search", search);
    for (const id of ["connection", "mode"]) if (byId(id).value) wanted.set(id, byId(id).value);
    if (byId("stale").checked) wanted.set("stale", "true");
    return `instruments?${wanted}`;
  },

  /** Ask after so many ms, and then again and again; what was asked before is given up. */
  refresh(afterMs = 0) {
    clearTimeout(this.timer);
    this.asking?.abort();
    if (document.hidden) return;
    this.timer = setTimeout(() => this.load(), afterMs);
  },

  async load() {
    const asking = (this.asking = new AbortController());
    try {
      if (known.link === "live") {
        const page = await (await ask(this.address(), { signal: asking.signal })).json();
        const last = Math.floor((page.total - 1) / PAGE);
        if (page.total && page.offset >= page.total) return this.turn(last - this.offset / PAGE);
        this.put(page);
      }
    } catch (error) {
      if (asking.signal.aborted) return; // another request has taken its place
      put(byId("range"), error instanceof Refused ? "" : `The list cannot be had (${error.message}).`);
    }
    this.refresh(known.status ? REFRESH_MS : TYPING_MS);
  },

  put({ total, offset, instruments: found }) {
    const classes = ["number", "", "number", "", "number", "number", "number"];
    putRows(byId("instruments").tBodies[0], found, classes, (cells, each) => {
      put(cells[0], String(each.instrument_token));
      put(cells[1], each.symbol ?? "–");
      put(cells[2], `${each.connection_id}${each.mirrored ? " + 3" : ""}`);
      put(cells[3], each.mode);
      put(cells[4], each.last_price === null ? "–" : prices.format(each.last_price));
      put(cells[5], whole.format(each.tick_count));
      put(cells[6], each.tick_age_s === null ? "never" : FORMS.duration(each.tick_age_s));
    });
    const end = offset + found.length;
    const range = `${whole.format(offset + 1)} to ${whole.format(end)} of ${whole.format(total)}`;
    put(byId("range"), found.length ? range : "None.");
    byId("previous").disabled = offset === 0;
    byId("next").disabled = end >= total;
  },

  turn(pages) {
    this.offset = Math.max(this.offset + pages * PAGE, 0);
    byId("instruments-panel").scrollTop = 0;
    this.refresh();
  },
};

byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("input", () => {
  instruments.offset = 0;
  instruments.refresh(TYPING_MS);
});
byId("previous").addEventListener("click", () => instruments.turn(-1));
byId("next").addEventListener("click", () => instruments.turn(1));
byId("gaps-only").addEventListener("change", () => {
  events.isStale = true;
  changed();
});
document.addEventListener("visibilitychange", () => instruments.refresh());

instruments.refresh();
follow();
