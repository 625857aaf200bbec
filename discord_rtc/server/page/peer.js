/**
 * The media path: one RTCPeerConnection, and the queue of its renegotiations.
 *
 * Sections of the description are never dropped or reordered. Somebody who leaves turns theirs
 * inactive, somebody who comes takes an inactive one before a new one is made. Any number of
 * changes may come while a negotiation runs: the next round takes them all at once.
 */

import {
  listCodecs,
  ownSsrcs,
  parseFragment,
  reduceOffer,
  wantStereo,
  writeAnswer,
} from "./sdp.js";

const MAX_VIDEO_KBPS = 2500;

/**
 * Events: "announce" (detail: our SSRCs, before media with them leaves), "tracks" (the
 * receivers of people changed), "state" (detail: connectionState), "failed" (detail: what a
 * negotiation failed with).
 */
export class Peer extends EventTarget {
  #codec;
  #connection;
  #audio;
  #video;
  #fragment = null;
  #wanted = new Map(); // "<user>:<kind>" to {userId, kind, ssrc}
  #slots = new Map(); // the same keys to the transceiver that carries them
  #changed = false;
  #running = null;

  /** @param {string} codec The video codec that we would like to send. */
  constructor(codec) {
    super();
    this.#codec = codec;
    this.#connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    this.#audio = this.#connection.addTransceiver("audio", { direction: "recvonly" });
    this.#video = this.#connection.addTransceiver("video", { direction: "recvonly" });
    this.#connection.addEventListener("connectionstatechange", () => {
      this.#emit("state", this.#connection.connectionState);
    });
  }

  /** The browser's object, for statistics. */
  get connection() {
    return this.#connection;
  }

  get audioSender() {
    return this.#audio.sender;
  }

  get videoSender() {
    return this.#video.sender;
  }

  /** What Select Protocol says of us. The candidates do not matter: the server learns them. */
  async open() {
    const sdp = await this.#offer();
    return { fragment: reduceOffer(sdp), codecs: listCodecs(sdp, this.#codec) };
  }

  /** What Session Description says of the server; the offer that it answers is still open. */
  async accept(sdp, codec) {
    const fragment = parseFragment(sdp);
    this.#codec = codec || this.#codec;
    const offer = this.#connection.localDescription.sdp;
    this.#emit("announce", ownSsrcs(offer)); // before media leaves, which the answer lets it
    await this.#answer(offer, fragment);
    this.#fragment = fragment;
    if (this.#changed) await this.#negotiate();
  }

  /**
   * Somebody's SSRC of a kind, or null when there is none any more.
   *
   * @returns {Promise<void>} Resolved when the browser knows.
   */
  setSource(userId, kind, ssrc) {
    const key = `${userId}:${kind}`;
    if ((this.#wanted.get(key)?.ssrc ?? null) === ssrc) return Promise.resolve();
    if (ssrc === null) {
      this.#wanted.delete(key);
    } else {
      this.#wanted.set(key, { userId, kind, ssrc });
    }
    return this.#negotiate();
  }

  /** The receiver of somebody's sound or picture, null when there is none. */
  receiverOf(userId, kind) {
    return this.#slots.get(`${userId}:${kind}`)?.receiver ?? null;
  }

  setAudio(track) {
    return this.#send(this.#audio, track);
  }

  setVideo(track) {
    return this.#send(this.#video, track);
  }

  close() {
    this.#connection.close();
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  get #closed() {
    return this.#connection.signalingState === "closed";
  }

  async #send(transceiver, track) {
    try {
      await transceiver.sender.replaceTrack(track);
      const direction = track ? "sendrecv" : "recvonly";
      if (transceiver.direction === direction) return;
      transceiver.direction = direction;
      await this.#negotiate();
    } catch (error) {
      if (!this.#closed) throw error; // nothing can be sent by what is closed
    }
  }

  #negotiate() {
    this.#changed = true;
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  async #run() {
    await null; // what else changes in this turn belongs to the same round
    try {
      while (this.#changed && this.#fragment && !this.#closed) {
        this.#changed = false;
        this.#seat();
        const offer = await this.#offer();
        this.#emit("announce", ownSsrcs(offer));
        await this.#answer(offer, this.#fragment);
        this.#emit("tracks");
      }
    } catch (error) {
      // A connection that is closed in the middle of a step lets the step fail.
      if (this.#closed) return;
      this.#emit("failed", error);
    }
  }

  #answer(offer, fragment) {
    const sources = new Map();
    for (const [key, { mid }] of this.#slots) sources.set(mid, this.#wanted.get(key));
    const sending = { codec: this.#codec, maxKbps: MAX_VIDEO_KBPS };
    const sdp = writeAnswer(offer, fragment, sources, sending);
    return this.#connection.setRemoteDescription({ type: "answer", sdp });
  }

  /** Give everybody who is wanted a transceiver, and take those of who is not. */
  #seat() {
    for (const key of this.#slots.keys()) {
      if (!this.#wanted.has(key)) this.#slots.delete(key);
    }
    const taken = new Set(this.#slots.values());
    for (const [key, { kind }] of this.#wanted) {
      if (this.#slots.has(key)) continue;
      const free = this.#connection
        .getTransceivers()
        .find((one) => one.receiver.track.kind === kind && !taken.has(one));
      const seat = free ?? this.#connection.addTransceiver(kind, { direction: "recvonly" });
      taken.add(seat);
      this.#slots.set(key, seat);
    }
  }

  async #offer() {
    const connection = this.#connection;
    const offer = await connection.createOffer();
    try {
      await connection.setLocalDescription({ type: "offer", sdp: wantStereo(offer.sdp) });
    } catch {
      await connection.setLocalDescription(offer); // a browser that lets nobody edit its offers
    }
    return connection.localDescription.sdp;
  }
}
