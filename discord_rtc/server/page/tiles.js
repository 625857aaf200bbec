/** One tile for each person: picture or initial, name, badges, figures, and how loud they are. */

const LEVEL_HEARD = 0.01; // of 1; about -40 dBov, louder than a quiet room
const LEVEL_AGE = 500; // ms after which a level is history
const HUES = 360;
const NARROW = 600; // px; less than this is one column that scrolls
const MIN_WIDTH = 240; // px of a tile; below this the figures are cut

function hueOf(id) {
  let hue = 0;
  for (const letter of id) hue = (hue * 31 + letter.charCodeAt(0)) % HUES;
  return hue;
}

export class Tile {
  #element;
  #video;
  #audio = new Audio();
  #parts = {};
  #announced = false;
  #shown = null;
  #receiver = null;
  #onBlocked;

  /**
   * @param {string} id
   * @param {boolean} own Our own tile has no sound and nothing to set.
   * @param {() => void} onBlocked Called when the browser wants a click before it plays sound.
   */
  constructor(id, own, onBlocked) {
    const template = document.getElementById("tile");
    this.#element = template.content.firstElementChild.cloneNode(true);
    this.#element.dataset.user = id;
    this.#element.classList.toggle("own", own);
    this.#element.style.setProperty("--hue", hueOf(id));
    this.#video = this.#element.querySelector("video");
    for (const name of ["avatar", "name", "badges", "figures", "listen"]) {
      this.#parts[name] = this.#element.querySelector(`.${name}`);
    }
    for (const name of ["hush", "volume", "enlarge"]) {
      this.#parts[name] = this.#element.querySelector(`[data-do="${name}"]`);
    }
    this.#onBlocked = onBlocked;
    this.#wire(own);
    this.name = own ? "You" : `user-${id}`;
  }

  get element() {
    return this.#element;
  }

  get name() {
    return this.#parts.name.textContent;
  }

  set name(name) {
    this.#parts.name.textContent = name;
    this.#parts.avatar.textContent = [...name.trim()][0]?.toUpperCase() ?? "?";
    this.#element.setAttribute("aria-label", name);
    this.#video.setAttribute("aria-label", `Video of ${name}`);
    this.#parts.volume.setAttribute("aria-label", `Volume of ${name}`);
    this.#labelHush();
  }

  set muted(muted) {
    this.#badge("muted", muted ? "muted" : "");
  }

  set transport(transport) {
    this.#badge("transport", transport ?? "");
  }

  /** What op 5 says; the level of the sound, where it is known, says more. */
  set announced(speaking) {
    this.#announced = speaking;
  }

  set speaking(speaking) {
    this.#element.classList.toggle("speaking", speaking);
  }

  set figures(parts) {
    this.#parts.figures.replaceChildren(
      ...parts.map((part) => {
        const element = document.createElement("span");
        element.textContent = part;
        return element;
      }),
    );
  }

  /**
   * Show a track, or (null) the initial. Somebody's next picture often comes by the same track:
   * the last one stays hidden until that is there.
   */
  show(track, mirrored = false) {
    this.#element.classList.toggle("mirrored", mirrored);
    if (this.#shown === track) return;
    this.#shown = track;
    this.#element.classList.remove("showing");
    if (!track) return;
    if (this.#video.srcObject?.getVideoTracks()[0] !== track) {
      this.#video.srcObject = new MediaStream([track]);
      // Rejected when the next track comes before this one plays, which does not matter.
      this.#video.play().catch(() => {});
    }
    this.#video.requestVideoFrameCallback(() => {
      this.#element.classList.toggle("showing", this.#shown !== null);
    });
  }

  /** Play what a receiver gets, or nothing. */
  hear(receiver) {
    if (this.#receiver === receiver) return;
    this.#receiver = receiver;
    this.#audio.srcObject = receiver ? new MediaStream([receiver.track]) : null;
    if (receiver) this.play();
  }

  play() {
    if (!this.#audio.srcObject) return;
    this.#audio.play().catch((error) => {
      if (error.name === "NotAllowedError") this.#onBlocked();
    });
  }

  /** Look at how loud it is right now. */
  listen() {
    const [source] = this.#receiver?.getSynchronizationSources() ?? [];
    const age = source ? performance.timeOrigin + performance.now() - source.timestamp : Infinity;
    const level = source?.audioLevel;
    const heard = age < LEVEL_AGE && (level === undefined ? this.#announced : level > LEVEL_HEARD);
    this.speaking = heard;
  }

  remove() {
    this.#video.srcObject = null;
    this.hear(null);
    this.#element.remove();
  }

  #wire(own) {
    const { hush, volume, enlarge, listen } = this.#parts;
    enlarge.hidden = !document.fullscreenEnabled;
    enlarge.addEventListener("click", () => this.#enlarge());
    if (own) {
      hush.remove();
      volume.remove();
      listen.hidden = enlarge.hidden;
      return;
    }
    hush.addEventListener("click", () => {
      this.#audio.muted = !this.#audio.muted;
      hush.setAttribute("aria-pressed", String(this.#audio.muted));
      this.#badge("hushed", this.#audio.muted ? "silenced by you" : "");
      this.#labelHush();
    });
    volume.addEventListener("input", () => {
      this.#audio.volume = Number(volume.value) / 100;
    });
  }

  #labelHush() {
    const { hush } = this.#parts;
    hush.setAttribute("aria-label", `Silence ${this.name} for you`);
  }

  #enlarge() {
    if (document.fullscreenElement) {
      document.exitFullscreen();
    } else {
      this.#element.requestFullscreen().catch(() => {}); // the system may say no
    }
  }

  #badge(kind, text) {
    let badge = this.#parts.badges.querySelector(`.${kind}`);
    if (!text) {
      badge?.remove();
      return;
    }
    if (!badge) {
      badge = document.createElement("span");
      badge.className = `badge ${kind}`;
      this.#parts.badges.append(badge);
    }
    badge.textContent = text;
  }
}

/**
 * Columns, and the width of each, that make `count` tiles as large as the room allows.
 *
 * @param {{gap: number, below: number}} around Pixels between tiles, and below the picture.
 */
export function fit(count, width, height, { gap, below }) {
  if (width < NARROW) return { columns: 1, width };
  let best = { columns: 1, width: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const wide = (width - gap * (columns - 1)) / columns;
    const high = (height - gap * (rows - 1)) / rows - below;
    const size = Math.max(MIN_WIDTH, Math.min(wide, (high * 16) / 9));
    if (size > best.width && size <= wide) best = { columns, width: size };
  }
  return best;
}
