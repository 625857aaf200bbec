/**
 * What we send: one picture (camera, screen or test pattern) and one sound (microphone, tone
 * and the sound of a shared screen, mixed when there is more than one).
 */

import { patternTrack, tone } from "./pattern.js";

const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
const MICROPHONE = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };

/** Whether there is a camera to ask for, which only secure contexts know. */
export const hasDevices = Boolean(navigator.mediaDevices?.getUserMedia);
export const hasScreens = Boolean(navigator.mediaDevices?.getDisplayMedia);

/** A device could not be had; `message` is for people. */
export class DeviceError extends Error {}

/** What a refusal means and what to do about it. */
export function explain(error, device) {
  if (error instanceof DeviceError) return error.message;
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      if (device === "screen")
        return "Nothing is shared: the browser was not allowed to, or you cancelled.";
      return (
        `The browser did not get permission for the ${device}. Click the icon beside the ` +
        `address, allow the ${device} for this page, then press the button again.`
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return device === "microphone"
        ? "No microphone was found. Connect one, or send the tone instead."
        : `No ${device} was found. Connect one, or send the test pattern instead.`;
    case "NotReadableError":
    case "AbortError":
      return `The ${device} is in use by another program, or the system keeps it from the browser.`;
    default:
      return `The ${device} could not be started: ${error.message || error.name}`;
  }
}

function insecure(device) {
  const port = location.port ? `:${location.port}` : "";
  return new DeviceError(
    `This page came from ${location.origin}, and browsers give a ${device} only to pages from ` +
      `https or from this computer itself. Open it as http://127.0.0.1${port} on the computer ` +
      "that runs the server. Test pattern and tone work here too.",
  );
}

export async function openCamera() {
  if (!hasDevices) throw insecure("camera");
  const stream = await navigator.mediaDevices.getUserMedia({ video: CAMERA });
  const [track] = stream.getVideoTracks();
  track.contentHint = "motion";
  return track;
}

export async function openMicrophone() {
  if (!hasDevices) throw insecure("microphone");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: MICROPHONE });
  return stream.getAudioTracks()[0];
}

/** @returns {Promise<{picture: MediaStreamTrack, sound: MediaStreamTrack | null}>} */
export async function openScreen() {
  const stream = await navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
  const [picture] = stream.getVideoTracks();
  picture.contentHint = "detail";
  return { picture, sound: stream.getAudioTracks()[0] ?? null };
}

export function openPattern(caption) {
  return patternTrack(caption);
}

/** All that we let others hear, as one track. */
export class Sound {
  #context = null;
  #mixer = null;
  #tone = null;
  #tracks = new Map(); // "microphone" and "screen" to {track, node}

  /** What to send; null for silence. */
  get track() {
    const microphone = this.#tracks.get("microphone")?.track ?? null;
    if (!this.#tone && !this.#tracks.has("screen")) return microphone;
    return this.#mixer.stream.getAudioTracks()[0];
  }

  /** Add, replace or (null) remove a source. What it replaces is stopped. */
  set(name, track) {
    const old = this.#tracks.get(name);
    old?.node?.disconnect();
    old?.track.stop();
    this.#tracks.delete(name);
    if (track) this.#tracks.set(name, { track, node: null });
    this.#mix();
  }

  setTone(on) {
    this.#tone?.stop();
    this.#tone = null;
    if (on) {
      this.#open();
      this.#tone = tone(this.#context, this.#mixer);
    }
    this.#mix();
  }

  /** Browsers let sound be made after a click only. */
  resume() {
    this.#context?.resume();
  }

  close() {
    for (const name of [...this.#tracks.keys()]) this.set(name, null);
    this.setTone(false);
    this.#context?.close();
    this.#context = null;
  }

  #open() {
    if (this.#context) return;
    this.#context = new AudioContext({ sampleRate: 48000 });
    this.#mixer = new MediaStreamAudioDestinationNode(this.#context);
  }

  /** The microphone alone goes out as it is; with company everything goes through the mixer. */
  #mix() {
    if (!this.#tone && !this.#tracks.has("screen")) return;
    this.#open();
    this.#context.resume();
    for (const source of this.#tracks.values()) {
      if (source.node) continue;
      const stream = new MediaStream([source.track]);
      source.node = new MediaStreamAudioSourceNode(this.#context, { mediaStream: stream });
      source.node.connect(this.#mixer);
    }
  }
}
