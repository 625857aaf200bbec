/** A worker that says "now" in a fixed rhythm; it is told the milliseconds between. */

self.addEventListener("message", ({ data }) => {
  setInterval(() => self.postMessage(null), data);
});
