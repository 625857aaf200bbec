/**
 * A picture and a tone to send where there is no camera and no microphone: colour bars, a ball
 * that never stands still, the number of the frame and the time of day.
 */

const WIDTH = 640;
const HEIGHT = 360;
const RATE = 30;

const BARS = ["#c9c9c9", "#c9c92a", "#2ac9c9", "#2ac92a", "#c92ac9", "#c92a2a", "#2a2ac9"];

/** @returns {MediaStreamTrack} Runs until it is stopped. */
export function patternTrack(caption) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const context = canvas.getContext("2d", { alpha: false });
  let number = 0;
  const [track] = canvas.captureStream(RATE).getVideoTracks();
  // A worker's timer, because browsers slow the timers of hidden tabs down to one in a second.
  const ticker = new Worker(new URL("ticker.js", import.meta.url));
  ticker.addEventListener("message", () => {
    if (track.readyState === "ended") {
      ticker.terminate();
    } else {
      draw(context, number++, caption);
    }
  });
  draw(context, number++, caption);
  ticker.postMessage(1000 / RATE);
  track.contentHint = "detail"; // sharp text matters more than the last frame per second
  return track;
}

function draw(context, number, caption) {
  const barWidth = WIDTH / BARS.length;
  BARS.forEach((colour, index) => {
    context.fillStyle = colour;
    context.fillRect(Math.floor(index * barWidth), 0, Math.ceil(barWidth), HEIGHT);
  });
  const seconds = number / RATE;
  const x = WIDTH / 2 + (WIDTH / 2 - 40) * Math.sin(seconds * 1.7);
  const y = 90 + 50 * Math.cos(seconds * 2.3);
  context.fillStyle = "#ffffff";
  context.beginPath();
  context.arc(x, y, 28, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = "#101014";
  context.fillRect(0, HEIGHT - 150, WIDTH, 150);
  // One step further with each frame: a frame that is missing shows as a wider step.
  context.fillStyle = "#5ad1a4";
  context.fillRect(((number % (2 * RATE)) / (2 * RATE)) * WIDTH, HEIGHT - 150, 12, 6);
  context.fillStyle = "#ffffff";
  context.textBaseline = "middle";
  context.font = "600 44px ui-monospace, Menlo, Consolas, monospace";
  context.textAlign = "left";
  context.fillText(new Date().toTimeString().slice(0, 8), 24, HEIGHT - 98);
  context.textAlign = "right";
  context.fillText(String(number).padStart(6, "0"), WIDTH - 24, HEIGHT - 98);
  context.font = "24px system-ui, sans-serif";
  context.textAlign = "left";
  context.fillText(caption, 24, HEIGHT - 40, WIDTH - 48);
}

/** A soft tone of 440 Hz, connected to `destination` until stop() is called. */
export function tone(audioContext, destination) {
  const oscillator = new OscillatorNode(audioContext, { frequency: 440 });
  const gain = new GainNode(audioContext, { gain: 0.12 });
  oscillator.connect(gain).connect(destination);
  oscillator.start();
  return {
    stop() {
      oscillator.stop();
      gain.disconnect();
    },
  };
}
