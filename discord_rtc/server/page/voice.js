/**
 * One voice session: the voice gateway's websocket, and the peer that it negotiates.
 * Spec: discord-userdoccers, "Voice Connections", gateway version 8, protocol "webrtc".
 */

import { Peer } from "./peer.js";
import { GatewaySocket } from "./socket.js";

const IDENTIFY = 0;
const SELECT_PROTOCOL = 1;
const READY = 2;
const HEARTBEAT = 3;
const SESSION_DESCRIPTION = 4;
const SPEAKING = 5;
const HEARTBEAT_ACK = 6;
const HELLO = 8;
const CLIENTS_CONNECT = 11;
const VIDEO = 12;
const CLIENT_DISCONNECT = 13;
const NO_ROUTE = 32;

const RID = "100";
const MAX_BITRATE = 2_500_000;
const MAX_HEARTBEAT = 5000; // ms; what the web client makes of longer intervals
const MEDIA_DEADLINE = 5000; // ms from Session Description to a live transport

/** A version 4 UUID; crypto.randomUUID exists in secure contexts only. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/**
 * Events: "live" (media flows), "joined" (detail: {ids}), "left" (detail: {id}), "speaking"
 * (detail: {id, speaking}), "tracks" (receivers changed), "lost" (detail: {code, reason}; code
 * 0 when the gateway is fine and the media path is not).
 */
export class VoiceSession extends EventTarget {
  #socket;
  #identity;
  #peer;
  #offer;
  #sequence = -1;
  #deadline = null;
  #live = false;
  #over = false;
  #sent = { audio: null, video: null };
  #speaking = 0;
  #picture = { width: 0, height: 0, framerate: 30 };
  #users = new Set();
  #showing = new Set(); // ids of those who send video

  /**
   * @param {string} url
   * @param {{serverId: string, userId: string, sessionId: string, token: string}} identity
   * @param {string} codec The video codec that we would like to send.
   */
  constructor(url, identity, codec) {
    super();
    this.#identity = identity;
    this.#peer = new Peer(codec);
    this.#offer = this.#peer.open(); // meanwhile the websocket opens
    this.#offer.catch(() => {}); // looked at when Ready comes, which it need not
    this.#peer.addEventListener("announce", ({ detail }) => this.#announce(detail));
    this.#peer.addEventListener("tracks", () => this.#emit("tracks"));
    this.#peer.addEventListener("state", ({ detail }) => this.#changed(detail));
    this.#peer.addEventListener("failed", ({ detail }) => this.#lose(0, `${detail}`));
    this.#socket = new GatewaySocket(url);
    this.#socket.addEventListener("lost", ({ detail }) => this.#lose(detail.code, detail.reason));
    this.#socket.addEventListener("message", ({ detail }) => {
      this.#receive(detail).catch((error) => this.#lose(0, `${error.message}`));
    });
  }

  get peer() {
    return this.#peer;
  }

  /** Ids of the others in the room. */
  get users() {
    return this.#users;
  }

  /** Somebody's picture as a track, null when there is none. */
  pictureOf(id) {
    return this.#showing.has(id) ? (this.#peer.receiverOf(id, "video")?.track ?? null) : null;
  }

  setAudio(track) {
    return this.#peer.setAudio(track);
  }

  /** Send another picture, or none; who watches is told first, and told when it has ended. */
  async setVideo(track) {
    const { width = 0, height = 0, frameRate = 30 } = track?.getSettings() ?? {};
    this.#picture = { width, height, framerate: Math.round(frameRate) };
    if (!track && this.#sent.video) {
      this.#sent = { ...this.#sent, video: null };
      this.#sayVideo();
    }
    const before = this.#sent.video;
    await this.#peer.setVideo(track);
    // The same numbers carry on with another picture, of another size perhaps.
    if (track && before && this.#sent.video?.media === before.media) this.#sayVideo();
  }

  /** Tell the others whether we speak. */
  setSpeaking(speaking) {
    if (this.#speaking === Number(speaking)) return;
    this.#speaking = Number(speaking);
    if (this.#sent.audio) this.#saySpeaking();
  }

  close() {
    this.#end();
    this.#socket.close();
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #end() {
    this.#over = true;
    clearTimeout(this.#deadline);
    this.#peer.close();
  }

  #lose(code, reason) {
    if (this.#over) return;
    this.#end();
    this.#socket.close();
    this.#emit("lost", { code, reason });
  }

  #changed(state) {
    if (state === "connected" && !this.#live) {
      this.#live = true;
      clearTimeout(this.#deadline);
      this.#emit("live");
    } else if (state === "failed") {
      this.#noRoute();
    }
  }

  #noRoute() {
    this.#socket.send(NO_ROUTE, {});
    this.#lose(0, "no UDP path to the server");
  }

  async #receive({ op, d, seq }) {
    this.#sequence = seq ?? this.#sequence;
    switch (op) {
      case HELLO:
        this.#identify();
        this.#socket.keepAlive(Math.min(d.heartbeat_interval, MAX_HEARTBEAT), () => this.#beat());
        break;
      case READY:
        await this.#select();
        break;
      case SESSION_DESCRIPTION:
        this.#deadline = setTimeout(() => this.#noRoute(), MEDIA_DEADLINE);
        await this.#peer.accept(d.sdp ?? "", d.video_codec);
        break;
      case HEARTBEAT:
        this.#beat();
        break;
      case HEARTBEAT_ACK:
        this.#socket.beaten();
        break;
      default:
        this.#receiveOfUsers(op, d);
    }
  }

  #receiveOfUsers(op, d) {
    switch (op) {
      case CLIENTS_CONNECT:
        for (const id of d.user_ids) this.#welcome(id);
        break;
      case SPEAKING:
        this.#welcome(d.user_id);
        this.#peer.setSource(d.user_id, "audio", d.ssrc || null);
        this.#emit("speaking", { id: d.user_id, speaking: d.speaking !== 0 });
        break;
      case VIDEO:
        this.#welcome(d.user_id);
        if (d.audio_ssrc) this.#peer.setSource(d.user_id, "audio", d.audio_ssrc);
        this.#show(d);
        break;
      case CLIENT_DISCONNECT:
        this.#users.delete(d.user_id);
        this.#showing.delete(d.user_id);
        this.#peer.setSource(d.user_id, "audio", null);
        this.#peer.setSource(d.user_id, "video", null);
        this.#emit("left", { id: d.user_id });
        break;
      default: // flags, platforms, wishes of the server: nothing that this page shows
    }
  }

  /**
   * Who stops and starts again does so with the same SSRC, so the section is kept meanwhile:
   * Chromium 150 decodes a stream that comes back to its old section, but does not play it.
   */
  #show({ user_id: id, video_ssrc: first, streams = [] }) {
    const active = streams.filter((stream) => stream.active !== false);
    if (first && active.length > 0) {
      this.#showing.add(id);
      this.#peer.setSource(id, "video", active[0].ssrc ?? first);
    } else {
      this.#showing.delete(id);
    }
    this.#emit("tracks");
  }

  #welcome(id) {
    if (id === this.#identity.userId || this.#users.has(id)) return;
    this.#users.add(id);
    this.#emit("joined", { id });
  }

  #beat() {
    this.#socket.send(HEARTBEAT, { t: Date.now(), seq_ack: this.#sequence });
  }

  #identify() {
    this.#socket.send(IDENTIFY, {
      server_id: this.#identity.serverId,
      user_id: this.#identity.userId,
      session_id: this.#identity.sessionId,
      token: this.#identity.token,
      video: true,
      streams: [{ type: "video", rid: RID, quality: 100 }],
      max_dave_protocol_version: 0,
    });
  }

  async #select() {
    const { fragment, codecs } = await this.#offer;
    this.#socket.send(SELECT_PROTOCOL, {
      protocol: "webrtc",
      data: fragment,
      sdp: fragment,
      codecs,
      rtc_connection_id: uuid(),
    });
  }

  /** What is sent gets announced, and again when the browser has chosen new numbers. */
  #announce({ audio, video }) {
    const before = this.#sent;
    this.#sent = { audio, video };
    if (audio && audio !== before.audio) this.#saySpeaking();
    if (video?.media !== before.video?.media) this.#sayVideo();
  }

  #saySpeaking() {
    this.#socket.send(SPEAKING, { speaking: this.#speaking, delay: 5, ssrc: this.#sent.audio });
  }

  #sayVideo() {
    const { audio, video } = this.#sent;
    const { width, height, framerate } = this.#picture;
    const stream = video && {
      type: "video",
      rid: RID,
      ssrc: video.media,
      rtx_ssrc: video.retransmission,
      active: true,
      quality: 100,
      max_bitrate: MAX_BITRATE,
      max_framerate: framerate,
      max_resolution: { type: width ? "fixed" : "source", width, height },
    };
    this.#socket.send(VIDEO, {
      audio_ssrc: audio ?? 0,
      video_ssrc: video?.media ?? 0,
      rtx_ssrc: video?.retransmission ?? 0,
      streams: stream ? [stream] : [],
    });
  }
}
