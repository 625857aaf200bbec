/** Everybody in the room as tiles: who they are, what they send, how it arrives. */

import { Meter, describe } from "./stats.js";
import { Tile, fit } from "./tiles.js";

const GAP = 12; // px, as --gap in style.css

export class People {
  #grid;
  #onBlocked;
  #tiles = new Map();
  #meters = new Map(); // by user, for sound and picture
  #known = new Map(); // id to {name, muted, transport}, of everybody we ever heard of
  #room = { width: 0, height: 0 };
  #figures = new Map(); // the latest, for scripts

  /** @param {HTMLElement} grid @param {() => void} onBlocked As Tile has it. */
  constructor(grid, onBlocked) {
    this.#grid = grid;
    this.#onBlocked = onBlocked;
    new ResizeObserver(([{ contentRect }]) => {
      this.#room = contentRect;
      this.arrange();
    }).observe(grid.parentElement);
  }

  /** Our own tile is the last one: what others send is what people come to look at. */
  addSelf(id) {
    const tile = new Tile(id, true, this.#onBlocked);
    this.#tiles.set(id, tile);
    this.#grid.append(tile.element);
    this.arrange();
    return tile;
  }

  add(id) {
    if (this.#tiles.has(id)) return;
    const tile = new Tile(id, false, this.#onBlocked);
    this.#tiles.set(id, tile);
    this.#meters.set(id, { audio: new Meter(), video: new Meter() });
    this.#grid.insertBefore(tile.element, this.#grid.querySelector(".own"));
    this.#apply(id);
    this.arrange();
  }

  remove(id) {
    this.#tiles.get(id)?.remove();
    this.#tiles.delete(id);
    this.#meters.delete(id);
    this.#figures.delete(id);
    this.arrange();
  }

  clear() {
    for (const id of [...this.#tiles.keys()]) this.remove(id);
  }

  /** Take in what is new about somebody. */
  learn(id, news) {
    const fresh = Object.entries(news).filter(([, value]) => value !== undefined);
    this.#known.set(id, { ...this.#known.get(id), ...Object.fromEntries(fresh) });
    this.#apply(id);
  }

  setSpeaking(id, speaking) {
    const tile = this.#tiles.get(id);
    if (tile) tile.announced = speaking;
  }

  /** Show and play what the receivers have now. */
  connect(voice) {
    for (const id of voice.users) {
      this.add(id);
      const tile = this.#tiles.get(id);
      tile.show(voice.pictureOf(id));
      tile.hear(voice.peer.receiverOf(id, "audio"));
    }
  }

  /** The click that a browser wanted has come. */
  playAll() {
    for (const tile of this.#tiles.values()) tile.play();
  }

  listen(voice) {
    for (const id of voice.users) this.#tiles.get(id)?.listen();
  }

  /** @returns {Promise<number>} The highest loss of anybody. */
  async measure(voice) {
    let worst = 0;
    for (const id of voice.users) {
      const [video, audio] = await Promise.all([
        voice.pictureOf(id) && this.#measure(voice, id, "video"),
        this.#measure(voice, id, "audio"),
      ]);
      const tile = this.#tiles.get(id);
      if (!tile) continue;
      tile.figures = describe(video, audio);
      this.#figures.set(id, { video, audio });
      worst = Math.max(worst, video?.loss ?? 0, audio?.loss ?? 0);
    }
    return worst;
  }

  /** Everybody but ourselves, for scripts. */
  snapshot() {
    return [...this.#meters.keys()].map((id) => ({
      id,
      ...this.#known.get(id),
      ...this.#figures.get(id),
    }));
  }

  async #measure(voice, id, kind) {
    const receiver = voice.peer.receiverOf(id, kind);
    const meter = this.#meters.get(id)?.[kind];
    return receiver && meter ? meter.read(await receiver.getStats(), kind, "in") : null;
  }

  #apply(id) {
    const tile = this.#tiles.get(id);
    if (!tile) return;
    const { name, muted, transport } = this.#known.get(id) ?? {};
    if (tile.element.classList.contains("own")) {
      tile.name = name ? `${name} (you)` : "You";
    } else {
      tile.name = name ?? `user-${id}`;
      tile.muted = muted ?? false;
    }
    tile.transport = transport;
  }

  /** Make the tiles as large as the room lets them be; narrow screens scroll. */
  arrange() {
    const { width: room, height } = this.#room;
    const tile = this.#grid.querySelector(".tile:not(.own)") ?? this.#grid.querySelector(".tile");
    const below = tile ? tile.offsetHeight - tile.querySelector(".picture").offsetHeight : 0;
    const around = { gap: GAP, below };
    const { columns, width } = fit(this.#tiles.size, room, height, around);
    const whole = Math.floor(width);
    this.#grid.style.setProperty("--width", `${whole}px`);
    this.#grid.style.setProperty("--span", `${columns * whole + (columns - 1) * GAP}px`);
  }
}
