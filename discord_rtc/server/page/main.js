/**
 * The page of the local voice server: joins a room as a user like any other.
 *
 * For scripts, everything can be asked for in the address, e.g.
 * `/?auto=1&name=Ann&guild=10&channel=20&pattern=1`:
 *
 *   auto=1              join without a click (sound needs a click later, in most browsers)
 *   name, guild, channel  who and where; an empty guild means a private call
 *   user                the user id, by default a random one
 *   microphone=1, camera=1, pattern=1, tone=1   what to send from the start
 *   codec               video codec to send: VP8 (default), H264, VP9 or AV1
 *   stats=0             without figures on the tiles
 *
 * `window.page` is for scripts too: `snapshot()` gives what the tiles show, as data, `connection`
 * is the RTCPeerConnection, and `receiverOf(userId, "video")` what somebody's picture comes by.
 */

import { Call } from "./call.js";
import { hasScreens } from "./devices.js";
import { Outgoing } from "./outgoing.js";
import { People } from "./people.js";
import { LinkMeter, formatBitrate, formatDelay, formatLoss } from "./stats.js";

const STORE = "discord-rtc";
const SOURCES = ["microphone", "camera", "pattern", "tone"];
const LISTEN_EVERY = 150; // ms
const MEASURE_EVERY = 1000; // ms
const ROOMS_EVERY = 3000; // ms
const SETTLES_IN = 300; // ms; the others stop to encrypt within seconds of our coming

const asked = new URLSearchParams(location.search);
const element = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("#bar [data-send]")];

/** Names the user of this tab; ids of Python users are usually small. */
const userId = /^[1-9]\d{0,18}$/.test(asked.get("user") ?? "")
  ? asked.get("user")
  : String(1_000_000 + crypto.getRandomValues(new Uint32Array(1))[0]);

const people = new People(element("grid"), askForClick);
let call = null;
let outgoing = null;
let ownTile = null;
let status = { state: "idle" };
let timers = [];
let lookingAgain = null;
let linkMeter = new LinkMeter();
let figures = { link: null, own: null };

/* What was entered the last time; the address wins. */

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? {};
  } catch {
    return {}; // no storage in this browser's private mode, or not ours
  }
}

function remember(values) {
  try {
    localStorage.setItem(STORE, JSON.stringify({ ...remembered(), ...values }));
  } catch {
    // The next visit starts with an empty form, which is all that is lost.
  }
}

function fillCard() {
  const form = element("card");
  const values = { guild: "10", channel: "20", ...remembered() };
  for (const name of ["name", "guild", "channel"]) {
    form.elements[name].value = asked.get(name) ?? values[name] ?? "";
  }
  for (const name of SOURCES) {
    const value = asked.get(name);
    form.elements[name].checked =
      value === null ? !asked.has("auto") && values[name] === true : value !== "0";
  }
  const stats = asked.get("stats");
  showFigures(stats === null ? values.stats !== false : stats !== "0");
}

function showFigures(shown) {
  document.body.classList.toggle("figures", shown);
  element("stats").setAttribute("aria-pressed", String(shown));
  people.arrange();
}

/* Joining and leaving */

function join() {
  const form = element("card");
  const values = Object.fromEntries(
    ["name", "guild", "channel"].map((name) => [name, form.elements[name].value.trim()]),
  );
  const wanted = SOURCES.filter((name) => form.elements[name].checked);
  remember({
    ...values,
    ...Object.fromEntries(SOURCES.map((name) => [name, wanted.includes(name)])),
  });
  const name = values.name || `user-${userId}`;
  document.body.classList.add("inside");
  dismiss();

  ownTile = people.addSelf(userId);
  people.learn(userId, { name });
  outgoing = new Outgoing(name);
  outgoing.addEventListener("changed", showOwn);
  outgoing.addEventListener("busy", ({ detail }) => {
    element("bar").querySelector(`[data-send="${detail.name}"]`).disabled = detail.busy;
  });
  outgoing.addEventListener("trouble", ({ detail }) => {
    if (detail) notify(detail);
  });

  const room = { guildId: values.guild || null, channelId: values.channel };
  call = new Call({ userId, name }, room, asked.get("codec") ?? "VP8");
  call.addEventListener("status", ({ detail }) => showStatus(detail));
  call.addEventListener("voice", ({ detail }) => outgoing.attach(detail));
  call.addEventListener("refused", () => {
    outgoing.stopPicture();
    notify("The server does not let this user send video.");
  });
  call.addEventListener("person", ({ detail: { id, name: called, muted } }) => {
    people.learn(id, { name: called, muted });
  });
  call.addEventListener("joined", ({ detail }) => people.add(detail.id));
  call.addEventListener("left", ({ detail }) => people.remove(detail.id));
  call.addEventListener("speaking", ({ detail }) => people.setSpeaking(detail.id, detail.speaking));
  call.addEventListener("tracks", () => call.voice && people.connect(call.voice));
  call.join();
  showOwn();
  timers = [
    setInterval(listen, LISTEN_EVERY),
    setInterval(measure, MEASURE_EVERY),
  ];
  for (const source of wanted) outgoing.toggle(source);
}

/** Back to the card, with a sentence when there is one to say. */
function leave(text) {
  for (const timer of timers) clearInterval(timer);
  timers = [];
  outgoing.close();
  people.clear();
  linkMeter = new LinkMeter();
  figures = { link: null, own: null };
  element("link").textContent = "";
  element("e2ee").hidden = true;
  document.body.classList.remove("inside");
  lookAround();
  if (text) notify(text, { label: "Join again", run: join });
  element("card").elements.name.focus({ preventScroll: true });
}

function showStatus(detail) {
  status = detail;
  const { guildId, channelId } = call.room; // which a moderator may change
  element("room").textContent = guildId
    ? `guild ${guildId}, channel ${channelId}`
    : `private call ${channelId}`;
  document.body.dataset.state = detail.state;
  element("state").textContent =
    { joining: "Joining…", live: "Connected", waiting: "Disconnected" }[detail.state] ?? "";
  if (detail.state === "live") {
    dismiss("connection");
    lookAround();
  } else if (detail.state === "waiting") {
    outgoing.attach(null);
    element("link").textContent = "";
    element("e2ee").hidden = true;
    const text = `${detail.text} Trying again in ${detail.seconds} s.`;
    notify(text, { label: "Rejoin now", run: () => call.join() }, "connection");
  } else if (detail.state === "ended") {
    leave(detail.text);
  }
}

/** What we send is different now: buttons, own tile, and what the others are told of us. */
function showOwn() {
  const { state, picture, muted } = outgoing;
  for (const button of buttons)
    button.setAttribute("aria-pressed", String(state[button.dataset.send]));
  ownTile.show(picture.track, picture.mirrored);
  ownTile.muted = muted;
  call.update({ muted, video: picture.track !== null });
}

/* Messages */

let noticeTopic = "";

function notify(text, action = null, topic = "") {
  noticeTopic = topic;
  element("notice-text").textContent = text;
  const button = element("notice-action");
  button.hidden = !action;
  button.textContent = action?.label ?? "";
  button.onclick = () => {
    dismiss();
    action.run();
  };
  element("notice").hidden = false;
}

function dismiss(topic = noticeTopic) {
  if (topic === noticeTopic) element("notice").hidden = true;
}

function askForClick() {
  const action = { label: "Turn the sound on", run: () => people.playAll() };
  notify("The browser plays no sound before you click.", action, "sound");
}

/* What happens again and again */

async function listen() {
  const voice = call?.voice;
  if (!voice) return;
  people.listen(voice);
  ownTile.speaking = await outgoing.listen();
}

async function measure() {
  const voice = call?.voice;
  if (!voice || status.state !== "live") return;
  const worst = await people.measure(voice);
  const own = await outgoing.measure();
  const link = linkMeter.read(await voice.peer.connection.getStats());
  figures = { link, own };
  ownTile.figures = own.parts;
  const rtt = link.rtt === null ? "" : `${formatDelay(link.rtt)} round trip · `;
  element("link").textContent =
    `${rtt}↑ ${formatBitrate(link.up)} · ↓ ${formatBitrate(link.down)} · ${formatLoss(worst)}`;
}

/** The room that we are in, or that the card is about. */
function wantedRoom() {
  if (document.body.classList.contains("inside")) return call.room;
  const { guild, channel } = element("card").elements;
  return { guildId: guild.value.trim() || null, channelId: channel.value.trim() };
}

/** What no gateway tells: names and transports of everybody, and whether a room is encrypted. */
async function lookAround() {
  clearTimeout(lookingAgain);
  let found;
  try {
    found = await (await fetch("/rooms.json")).json();
  } catch {
    return; // The server is away; the websockets say so with more effect.
  }
  const { guildId, channelId } = wantedRoom();
  const here = found.rooms.find(
    (room) => room.guild_id === guildId && room.channel_id === channelId,
  );
  const encrypted = (here?.e2ee ?? "off") !== "off";
  // Where encryption is required nobody joins from here, and nothing is switched off.
  element("warning").hidden = !encrypted || found.dave !== "optional";
  if (!document.body.classList.contains("inside") || status.state !== "live") return;
  for (const { id, name, transport } of here?.users ?? []) people.learn(id, { name, transport });
  element("e2ee").textContent = here?.e2ee_reason ? `encryption off: ${here.e2ee_reason}` : "";
  element("e2ee").hidden = !here?.e2ee_reason;
  if (encrypted) lookingAgain = setTimeout(lookAround, SETTLES_IN);
}

/* Wiring */

element("card").addEventListener("submit", (event) => {
  event.preventDefault();
  join();
});
for (const name of ["guild", "channel"]) {
  element("card").elements[name].addEventListener("input", lookAround);
}
for (const button of buttons) {
  button.addEventListener("click", () => outgoing.toggle(button.dataset.send));
}
element("leave").addEventListener("click", () => call.leave());
element("stats").addEventListener("click", () => {
  const shown = !document.body.classList.contains("figures");
  showFigures(shown);
  remember({ stats: shown });
});
element("notice-close").addEventListener("click", () => dismiss());
addEventListener("click", () => outgoing?.resume());
addEventListener("pagehide", () => call?.leave());
element("bar").querySelector('[data-send="screen"]').hidden = !hasScreens;

window.page = {
  snapshot: () => ({ status, userId, ...figures, people: people.snapshot() }),
  get connection() {
    return call?.voice?.peer.connection ?? null;
  },
  receiverOf: (id, kind) => call?.voice?.peer.receiverOf(id, kind) ?? null,
};

fillCard();
lookAround();
setInterval(() => document.hidden || lookAround(), ROOMS_EVERY);
if (typeof RTCPeerConnection === "undefined") {
  notify("This browser has no WebRTC, or it is switched off.");
  element("card").querySelector("button").disabled = true;
} else if (asked.get("auto") === "1") {
  join();
}
