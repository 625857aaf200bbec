/** What we send and the buttons that change it. */

import { Sound, explain, openCamera, openMicrophone, openPattern, openScreen } from "./devices.js";
import { Meter, describe } from "./stats.js";

const QUIET = 600; // ms of silence after which we do not speak any more
const LEVEL_HEARD = 0.01; // of 1

/**
 * Events: "changed" (what is sent is different now), "trouble" (detail: a sentence for people,
 * or null when an attempt went well), "busy" (detail: {name, busy}).
 */
export class Outgoing extends EventTarget {
  #caption;
  #sound = new Sound();
  #microphone = { open: false, muted: false };
  #tone = false;
  #screenSound = false;
  #picture = null; // {kind, track}
  #voice = null;
  #meters = { audio: new Meter(), video: new Meter() };
  #heardAt = -Infinity;
  #microphoneTrack = null;

  /** @param {string} caption Written into the test pattern. */
  constructor(caption) {
    super();
    this.#caption = caption;
  }

  /** Which buttons are on. */
  get state() {
    const kind = this.#picture?.kind;
    return {
      microphone: this.#microphone.open && !this.#microphone.muted,
      tone: this.#tone,
      camera: kind === "camera",
      screen: kind === "screen",
      pattern: kind === "pattern",
    };
  }

  get muted() {
    return !this.state.microphone && !this.#tone && !this.#screenSound;
  }

  /** The track that is sent as video, and whether it should be seen as in a mirror. */
  get picture() {
    return { track: this.#picture?.track ?? null, mirrored: this.#picture?.kind === "camera" };
  }

  /** Send everything in this session from now on; null when there is none. */
  attach(voice) {
    this.#voice = voice;
    this.#meters = { audio: new Meter(), video: new Meter() };
    this.#send();
  }

  /** Switch something on or off, by the name of its button. */
  async toggle(name) {
    this.#emit("busy", { name, busy: true });
    try {
      await this.#toggle(name);
      this.#emit("trouble", null);
    } catch (error) {
      this.#emit("trouble", explain(error, name));
    } finally {
      this.#emit("busy", { name, busy: false });
      this.#emit("changed");
    }
  }

  /** There was a click, which a tone may have waited for. */
  resume() {
    this.#sound.resume();
  }

  /** Stop the picture, whatever it is. */
  stopPicture() {
    this.#show(null, null);
    this.#emit("changed");
  }

  close() {
    this.#voice = null;
    this.#picture?.track.stop();
    this.#picture = null;
    this.#sound.close();
    this.#microphone = { open: false, muted: false };
    this.#tone = false;
    this.#screenSound = false;
  }

  /** Whether our own sound is loud enough to count as speech, and tell the others. */
  async listen() {
    const voice = this.#voice;
    if (!voice) return false;
    if (!this.muted) {
      const report = await voice.peer.audioSender.getStats();
      const source = [...report.values()].find(({ type }) => type === "media-source");
      if ((source?.audioLevel ?? 0) > LEVEL_HEARD) this.#heardAt = performance.now();
    }
    const speaking = !this.muted && performance.now() - this.#heardAt < QUIET;
    voice.setSpeaking(speaking);
    return speaking;
  }

  /** What goes out, in words and in numbers. */
  async measure() {
    const voice = this.#voice;
    if (!voice) return { parts: [], video: null, audio: null };
    const { videoSender, audioSender } = voice.peer;
    const video = this.#picture
      ? this.#meters.video.read(await videoSender.getStats(), "video", "out")
      : null;
    const audio = this.muted
      ? null
      : this.#meters.audio.read(await audioSender.getStats(), "audio", "out");
    return { parts: describe(video, audio), video, audio };
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  async #toggle(name) {
    if (name === "microphone") {
      await this.#toggleMicrophone();
    } else if (name === "tone") {
      this.#tone = !this.#tone;
      this.#sound.setTone(this.#tone);
      this.#send();
    } else if (this.#picture?.kind === name) {
      this.#show(null, null);
    } else if (name === "camera") {
      this.#show("camera", await openCamera());
    } else if (name === "screen") {
      const { picture, sound } = await openScreen();
      this.#show("screen", picture, sound);
    } else {
      this.#show("pattern", openPattern(this.#caption));
    }
  }

  async #toggleMicrophone() {
    if (this.#microphone.open) {
      this.#microphone.muted = !this.#microphone.muted;
      this.#microphoneTrack.enabled = !this.#microphone.muted;
      return;
    }
    const track = await openMicrophone();
    track.addEventListener("ended", () => {
      this.#microphone = { open: false, muted: false };
      this.#sound.set("microphone", null);
      this.#send();
      this.#emit("changed");
      this.#emit("trouble", "The microphone was disconnected.");
    });
    this.#microphoneTrack = track;
    this.#microphone = { open: true, muted: false };
    this.#sound.set("microphone", track);
    this.#send();
  }

  #show(kind, track, sound = null) {
    this.#picture?.track.stop();
    this.#picture = track && { kind, track };
    track?.addEventListener("ended", () => this.#lostPicture(track));
    this.#screenSound = Boolean(sound);
    this.#sound.set("screen", sound);
    this.#send();
  }

  /** The browser's own "stop sharing", or a camera that was pulled out; stop() says nothing. */
  #lostPicture(track) {
    if (this.#picture?.track !== track) return;
    const { kind } = this.#picture;
    this.stopPicture();
    if (kind === "camera") this.#emit("trouble", "The camera was disconnected.");
  }

  #send() {
    this.#voice?.setAudio(this.#sound.track);
    this.#voice?.setVideo(this.picture.track);
  }
}
