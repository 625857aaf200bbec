/**
 * A call from the first click to the last: main gateway, voice session, and what happens when
 * one of them is lost. What people read about it is written here too.
 */

import { Gateway } from "./gateway.js";
import { VoiceSession } from "./voice.js";

/** Seconds before each new attempt; the last one repeats. */
const BACK_OFF = [1, 2, 4, 8, 15];

/** Milliseconds that a move may take between the old session's end and the new server. */
const MOVE_TIMEOUT = 3000;

const VOICE_CLOSE = {
  4004: "The server refused the login to voice. Join again to get a new one.",
  4011: "The server does not know this room.",
  4012: "The server does not speak this page's version of the voice protocol.",
  4016: "The server and this page have no encryption in common.",
  4017:
    "This server requires end-to-end encryption (DAVE), which this page does not have. " +
    "Start it with --dave optional to join from here.",
  4021: "The server closed the call because this page sent too much at once.",
};

/** Codes that say: wait for the next server, or you are out. */
const MOVED_OR_REMOVED = new Set([4014, 4022]);

const REMOVED = "You were removed from the room.";

function scheme() {
  return location.protocol === "https:" ? "wss:" : "ws:";
}

/**
 * Events: "status" (detail: {state, text?, seconds?}, state is "joining", "live", "waiting" or
 * "ended"), "voice" (a new session: send what there is to send), "refused" (video was not
 * granted), "person", "joined", "left", "speaking" and "tracks" as Gateway and VoiceSession
 * have them.
 */
export class Call extends EventTarget {
  #identity;
  #room;
  #codec;
  #gateway = null;
  #voice = null;
  #self = { muted: true, video: false };
  #asking = false; // whether op 4 was sent, so that changes have to be sent as well
  #attempts = 0;
  #timer = null;

  /**
   * @param {{userId: string, name: string}} identity
   * @param {{guildId: string | null, channelId: string}} room
   * @param {string} codec The video codec that we would like to send.
   */
  constructor(identity, room, codec) {
    super();
    this.#identity = identity;
    this.#room = room;
    this.#codec = codec;
  }

  /** The voice session; null between two of them. */
  get voice() {
    return this.#voice;
  }

  get room() {
    return this.#room;
  }

  /** Begin, or begin anew without waiting any longer. */
  join() {
    this.#hangUp();
    this.#emit("status", { state: "joining" });
    const url = `${scheme()}//${location.host}/gateway?v=10&encoding=json`;
    const gateway = new Gateway(url, this.#identity, this.#room);
    this.#gateway = gateway;
    this.#asking = false;
    gateway.addEventListener("ready", () => {
      this.#asking = true;
      gateway.update(this.#self);
    });
    gateway.addEventListener("person", ({ detail }) => this.#emit("person", detail));
    gateway.addEventListener("own", ({ detail }) => this.#hearOfSelf(detail));
    gateway.addEventListener("server", ({ detail }) => this.#enter(detail));
    gateway.addEventListener("lost", ({ detail }) => this.#retry(detail, "The server went away."));
  }

  leave() {
    this.#hangUp();
    this.#emit("status", { state: "ended" });
  }

  /** Show everybody whether we are muted and whether we show video. */
  update(self) {
    if (self.muted === this.#self.muted && self.video === this.#self.video) return;
    this.#self = self;
    if (this.#asking) this.#gateway?.update(self);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #hangUp() {
    clearTimeout(this.#timer);
    this.#dropVoice();
    const gateway = this.#gateway;
    this.#gateway = null;
    gateway?.close();
  }

  #dropVoice() {
    const voice = this.#voice;
    this.#voice = null;
    if (!voice) return;
    voice.close();
    for (const id of voice.users) this.#emit("left", { id });
  }

  #end(text) {
    this.#hangUp();
    this.#emit("status", { state: "ended", text });
  }

  #retry({ code, reason }, text) {
    if (code === 4004) {
      this.#end("The server did not accept this user.");
      return;
    }
    this.#hangUp();
    const seconds = BACK_OFF[Math.min(this.#attempts, BACK_OFF.length - 1)];
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.join(), seconds * 1000);
    this.#emit("status", { state: "waiting", text, seconds, code, reason });
  }

  #hearOfSelf({ channelId, refused }) {
    if (channelId === null) {
      this.#end(REMOVED);
    } else if (refused) {
      this.#emit("refused");
    }
  }

  #enter({ endpoint, token, sessionId }) {
    clearTimeout(this.#timer);
    this.#dropVoice(); // a new server means a new session: moved, or the old server went away
    const { guildId, channelId } = this.#room;
    const { userId } = this.#identity;
    const identity = { serverId: guildId ?? channelId, userId, sessionId, token };
    const base = endpoint.includes("://") ? endpoint : `${scheme()}//${endpoint}`;
    const voice = new VoiceSession(`${base}/?v=8`, identity, this.#codec);
    this.#voice = voice;
    for (const type of ["joined", "left", "speaking", "tracks"]) {
      voice.addEventListener(type, ({ detail }) => this.#emit(type, detail));
    }
    voice.addEventListener("live", () => {
      this.#attempts = 0;
      this.#emit("status", { state: "live" });
    });
    voice.addEventListener("lost", ({ detail }) => this.#loseVoice(detail));
    this.#emit("voice", voice);
  }

  #loseVoice({ code, reason }) {
    if (MOVED_OR_REMOVED.has(code)) {
      this.#dropVoice();
      this.#emit("status", { state: "joining" });
      this.#timer = setTimeout(() => this.#end(REMOVED), MOVE_TIMEOUT);
    } else if (code in VOICE_CLOSE) {
      this.#end(VOICE_CLOSE[code]);
    } else if (code === 0) {
      const text = `The call could not be carried: ${reason}. Is UDP between here and the server blocked?`;
      this.#retry({ code, reason }, text);
    } else {
      const closed =
        code === 1006 || code === 1001 ? "" : ` (code ${code}${reason && `: ${reason}`})`;
      this.#retry({ code, reason }, `The server went away${closed}.`);
    }
  }
}
