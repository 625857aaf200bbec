/**
 * The main gateway: logs in, asks for a voice channel, and learns who is called what.
 * Spec: Discord docs, "Gateway" and "Gateway Events".
 */

import { GatewaySocket } from "./socket.js";

const DISPATCH = 0;
const HEARTBEAT = 1;
const IDENTIFY = 2;
const VOICE_STATE_UPDATE = 4;
const INVALID_SESSION = 9;
const HELLO = 10;
const HEARTBEAT_ACK = 11;

const INTENTS = (1 << 0) | (1 << 7); // guilds, voice states

/**
 * Events: "ready", "person" (detail: {id, name?, muted?, channelId?}), "own" (detail:
 * {channelId, refused}, the latter when we asked to show video and may not), "server" (detail: {endpoint, token, sessionId}), "lost" (detail: {code, reason}).
 */
export class Gateway extends EventTarget {
  #socket;
  #identity;
  #room;
  #sequence = null;
  #sessionId = null;
  #server = null;
  #unanswered = 0; // op 4 that were not answered by a voice state yet
  #asked = null; // the last op 4

  /**
   * @param {string} url
   * @param {{userId: string, name: string}} identity
   * @param {{guildId: string | null, channelId: string}} room
   */
  constructor(url, identity, room) {
    super();
    this.#identity = identity;
    this.#room = room;
    this.#socket = new GatewaySocket(url);
    this.#socket.addEventListener("message", ({ detail }) => this.#receive(detail));
    this.#socket.addEventListener("lost", ({ detail }) => this.#emit("lost", detail));
  }

  /** Enter the room, or change how we are in it. */
  update({ muted, video }) {
    this.#ask({
      guild_id: this.#room.guildId,
      channel_id: this.#room.channelId,
      self_mute: muted,
      self_deaf: false,
      self_video: video,
    });
  }

  /** Leave the room and hang up. */
  close() {
    this.#ask({
      guild_id: this.#room.guildId,
      channel_id: null,
      self_mute: false,
      self_deaf: false,
    });
    this.#socket.close();
  }

  #ask(state) {
    this.#unanswered += 1;
    this.#asked = state;
    this.#socket.send(VOICE_STATE_UPDATE, state);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #receive({ op, d, s, t }) {
    if (op === DISPATCH) {
      this.#sequence = s;
      this.#dispatched(t, d);
    } else if (op === HELLO) {
      this.#identify();
      this.#socket.keepAlive(d.heartbeat_interval, () => this.#beat());
    } else if (op === HEARTBEAT) {
      this.#beat();
    } else if (op === HEARTBEAT_ACK) {
      this.#socket.beaten();
    } else if (op === INVALID_SESSION) {
      this.#identify();
    }
  }

  #beat() {
    this.#socket.send(HEARTBEAT, this.#sequence);
  }

  #identify() {
    this.#socket.send(IDENTIFY, {
      token: `user-${this.#identity.userId}`,
      intents: INTENTS,
      // "name" is an addition of the local server, where nobody has an account to be named by.
      properties: { os: "web", browser: "page", device: "page", name: this.#identity.name },
    });
  }

  #dispatched(name, data) {
    if (name === "READY") {
      this.#emit("ready");
    } else if (name === "GUILD_CREATE" && data.id === this.#room.guildId) {
      for (const { user } of data.members)
        this.#emit("person", { id: user.id, name: user.username });
      for (const state of data.voice_states) this.#meet(state);
    } else if (name === "VOICE_STATE_UPDATE" && (data.guild_id ?? null) === this.#room.guildId) {
      this.#meet(data);
      if (data.user_id === this.#identity.userId) this.#hearOfSelf(data);
    } else if (name === "VOICE_SERVER_UPDATE" && data.guild_id === this.#room.guildId) {
      this.#server = { endpoint: data.endpoint, token: data.token };
      this.#offerServer();
    }
  }

  #meet(state) {
    this.#emit("person", {
      id: state.user_id,
      name: state.member?.user.username,
      muted: state.self_mute || state.mute,
      channelId: state.channel_id,
    });
  }

  /** Each op 4 is answered by one of these, and moderators cause more. */
  #hearOfSelf(state) {
    this.#unanswered = Math.max(0, this.#unanswered - 1);
    this.#sessionId = state.session_id;
    this.#room.channelId = state.channel_id ?? this.#room.channelId;
    const refused = this.#unanswered === 0 && this.#asked?.self_video && !state.self_video;
    this.#emit("own", { channelId: state.channel_id, refused });
    this.#offerServer();
  }

  /** The two events that a voice session needs come in either order, and as often as we move. */
  #offerServer() {
    if (!this.#server?.endpoint || !this.#sessionId) return;
    const server = this.#server;
    this.#server = null;
    this.#emit("server", { ...server, sessionId: this.#sessionId });
  }
}
