/**
 * A websocket of either gateway: JSON messages both ways, and heartbeats.
 *
 * Events: "message" (detail: the message), "lost" (detail: {code, reason}), the latter once,
 * and never after close().
 */

/** Heartbeats without an answer after which a connection counts as dead (discord.js: 3). */
const MAX_UNANSWERED = 3;

export class GatewaySocket extends EventTarget {
  #socket;
  #timer = null;
  #unanswered = 0;
  #over = false;

  constructor(url) {
    super();
    this.#socket = new WebSocket(url);
    this.#socket.addEventListener("message", ({ data }) => {
      if (!this.#over) this.dispatchEvent(new CustomEvent("message", { detail: JSON.parse(data) }));
    });
    this.#socket.addEventListener("close", ({ code, reason }) => this.#lose(code, reason));
  }

  send(op, d) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ op, d }));
  }

  /** Send a heartbeat now and then; `beat` sends one, `beaten` has to be called for answers. */
  keepAlive(interval, beat) {
    const tick = () => {
      this.#unanswered += 1;
      if (this.#unanswered > MAX_UNANSWERED) {
        this.#lose(1006, "no answer to heartbeats");
        this.#socket.close();
      } else {
        beat();
      }
    };
    tick();
    this.#timer = setInterval(tick, interval);
  }

  beaten() {
    this.#unanswered = 0;
  }

  close() {
    this.#end();
    this.#socket.close(1000);
  }

  #lose(code, reason) {
    if (this.#over) return;
    this.#end();
    this.dispatchEvent(new CustomEvent("lost", { detail: { code, reason } }));
  }

  #end() {
    this.#over = true;
    clearInterval(this.#timer);
  }
}
