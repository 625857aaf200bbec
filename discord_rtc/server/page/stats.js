/** What the numbers of getStats mean, between two looks at them. */

/** Rates of one RTP stream (in or out) since the last look, by its id. */
export class Meter {
  #last = new Map();

  /**
   * @param {RTCStatsReport} report Of one sender or receiver.
   * @param {"in" | "out"} direction
   * @returns {object | null} Null when nothing flows.
   */
  read(report, kind, direction) {
    const type = direction === "in" ? "inbound-rtp" : "outbound-rtp";
    // After a change of person a receiver may show both for a moment; the last is the new one.
    const stream = [...report.values()].findLast((one) => one.type === type && one.kind === kind);
    if (!stream) return null;
    const now = direction === "in" ? arrived(stream) : departed(stream);
    const known = this.#last.get(stream.id);
    // Another person's stream may come by the same receiver and keep its id; it begins at zero.
    const before = known && known.bytes <= now.bytes ? known : now;
    this.#last.set(stream.id, now);
    const seconds = (now.at - before.at) / 1000;
    return {
      codec: report.get(stream.codecId)?.mimeType.split("/")[1] ?? "",
      width: stream.frameWidth ?? 0,
      height: stream.frameHeight ?? 0,
      fps: stream.framesPerSecond ?? 0,
      bitrate: seconds > 0 ? (8 * (now.bytes - before.bytes)) / seconds : 0,
      loss: direction === "in" ? lossBetween(before, now) : remoteLoss(report, stream),
      frames: now.frames,
    };
  }
}

function arrived({ timestamp, bytesReceived, packetsReceived, packetsLost, framesDecoded }) {
  return {
    at: timestamp,
    bytes: bytesReceived,
    packets: packetsReceived,
    lost: packetsLost,
    frames: framesDecoded ?? 0,
  };
}

function departed({ timestamp, bytesSent, framesEncoded }) {
  return { at: timestamp, bytes: bytesSent, frames: framesEncoded ?? 0 };
}

function lossBetween(before, now) {
  const lost = Math.max(0, now.lost - before.lost);
  const expected = now.packets - before.packets + lost;
  return expected > 0 ? lost / expected : 0;
}

function remoteLoss(report, stream) {
  return report.get(stream.remoteId)?.fractionLost ?? 0;
}

/** The whole connection: round trip in seconds (null before it is known) and bits per second. */
export class LinkMeter {
  #last = null;

  read(report) {
    const entries = [...report.values()];
    const transport = entries.find(({ type }) => type === "transport");
    const pair = report.get(transport?.selectedCandidatePairId);
    const now = {
      at: transport?.timestamp ?? 0,
      sent: transport?.bytesSent ?? 0,
      received: transport?.bytesReceived ?? 0,
    };
    const before = this.#last ?? now;
    this.#last = now;
    const seconds = (now.at - before.at) / 1000;
    return {
      rtt: pair?.currentRoundTripTime ?? null,
      up: seconds > 0 ? (8 * (now.sent - before.sent)) / seconds : 0,
      down: seconds > 0 ? (8 * (now.received - before.received)) / seconds : 0,
    };
  }
}

export function formatBitrate(bits) {
  return bits >= 1e6 ? `${(bits / 1e6).toFixed(1)} Mb/s` : `${Math.round(bits / 1000)} kb/s`;
}

export function formatDelay(seconds) {
  return seconds < 0.001 ? "< 1 ms" : `${Math.round(seconds * 1000)} ms`;
}

export function formatLoss(loss) {
  return `${(100 * loss).toFixed(loss > 0 && loss < 0.1 ? 1 : 0)} % lost`;
}

/** One line about a person's picture and sound. */
export function describe(video, audio) {
  const parts = [];
  if (video?.width) {
    parts.push(video.codec, `${video.width}×${video.height}`, `${Math.round(video.fps)} fps`);
    parts.push(formatBitrate(video.bitrate));
  }
  if (audio?.codec) parts.push(`${audio.codec} ${formatBitrate(audio.bitrate)}`);
  if (parts.length > 0) parts.push(formatLoss(Math.max(video?.loss ?? 0, audio?.loss ?? 0)));
  return parts;
}
