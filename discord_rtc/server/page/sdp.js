/**
 * SDP of the web-client flow: pure functions, text in, text out.
 *
 * The server takes a few lines of the offer (reduceOffer) and answers with a few of its own
 * (parseFragment). The rest of what a browser wants to hear is written here (writeAnswer), for
 * the first description and for every later one: who comes and goes never reaches the server
 * as SDP. Spec: discord-userdoccers, "Voice Connections", WebRTC; RFC 8866, RFC 9429.
 */

const REDUCED = /^a=(extmap-allow-mixed$|ice-|fingerprint:|extmap:)/;

/** Video codecs that the server may be told of, in the order of the web client. */
const VIDEO_CODECS = ["H264", "VP8", "VP9", "AV1"];

const AUDIO_EXTENSIONS = [
  "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
  "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
];

const VIDEO_EXTENSIONS = [
  "urn:ietf:params:rtp-hdrext:toffset",
  "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
  "urn:3gpp:video-orientation",
  "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
  "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
];

const VIDEO_FEEDBACK = ["ccm fir", "nack", "nack pli", "goog-remb", "transport-cc"];

const DIRECTIONS = ["sendrecv", "sendonly", "recvonly", "inactive"];

/** What the answer says to each direction of the offer, with and without somebody to hear. */
const ANSWERS = {
  recvonly: { heard: "sendonly", silent: "inactive" },
  sendonly: { heard: "recvonly", silent: "recvonly" },
  sendrecv: { heard: "sendrecv", silent: "recvonly" },
  inactive: { heard: "inactive", silent: "inactive" },
};

/** The server said something that no call can be made of. */
export class BadFragment extends Error {}

function linesOf(sdp) {
  return sdp.split(/\r?\n/).filter((line) => line !== "");
}

/**
 * Media sections of an offer, in order.
 *
 * @returns {{kind: string, mid: string, direction: string, lines: string[],
 *   codecs: {payloadType: number, name: string, clock: string, parameters: string}[],
 *   extensions: Map<string, string>, ssrcs: number[]}[]}
 */
export function parseSections(sdp) {
  const sections = [];
  for (const line of linesOf(sdp)) {
    if (line.startsWith("m=")) {
      sections.push({ kind: line.slice(2).split(" ")[0], lines: [] });
    } else if (sections.length > 0) {
      sections.at(-1).lines.push(line);
    }
  }
  return sections.map(({ kind, lines }) => ({
    kind,
    lines,
    mid: valueOf(lines, "a=mid:") ?? "",
    direction: DIRECTIONS.find((name) => lines.includes(`a=${name}`)) ?? "sendrecv",
    codecs: codecsOf(lines),
    extensions: extensionsOf(lines),
    ssrcs: ssrcsOf(lines),
  }));
}

function valueOf(lines, prefix) {
  return lines.find((line) => line.startsWith(prefix))?.slice(prefix.length);
}

function codecsOf(lines) {
  const parameters = new Map();
  for (const line of lines) {
    const found = /^a=fmtp:(\d+) (.*)$/.exec(line);
    if (found) parameters.set(found[1], found[2]);
  }
  const codecs = [];
  for (const line of lines) {
    const found = /^a=rtpmap:(\d+) ([^/]+)\/(.+)$/.exec(line);
    if (!found) continue;
    const [, payloadType, name, clock] = found;
    codecs.push({
      payloadType: Number(payloadType),
      name,
      clock,
      parameters: parameters.get(payloadType) ?? "",
    });
  }
  return codecs;
}

function extensionsOf(lines) {
  const extensions = new Map();
  for (const line of lines) {
    const found = /^a=extmap:(\d+)(?:\/\w+)? (\S+)/.exec(line);
    if (found) extensions.set(found[2], found[1]);
  }
  return extensions;
}

function ssrcsOf(lines) {
  const numbers = lines.map((line) => /^a=ssrc:(\d+) cname:/.exec(line)?.[1]).filter(Boolean);
  return [...new Set(numbers.map(Number))];
}

function named(codecs, name) {
  return codecs.filter((codec) => codec.name.toLowerCase() === name.toLowerCase());
}

/** The one entry of a codec that is used. H.264 comes in many profiles; all decode this one. */
function pick(codecs, name) {
  const entries = named(codecs, name);
  const fitting = [
    /(?=.*packetization-mode=1)(?=.*profile-level-id=42e01f)/i,
    /packetization-mode=1/,
    /profile-id=0/,
  ];
  for (const pattern of fitting) {
    const found = entries.find((codec) => pattern.test(codec.parameters));
    if (found) return found;
  }
  return entries[0];
}

function retransmissionOf(codecs, payloadType) {
  return named(codecs, "rtx").find((codec) => codec.parameters === `apt=${payloadType}`);
}

function videoCodecs(codecs, first) {
  const names = [first, ...VIDEO_CODECS.filter((name) => name !== first)];
  return names.map((name) => ({ name, codec: pick(codecs, name) })).filter(({ codec }) => codec);
}

/** The lines of an offer that Select Protocol carries. */
export function reduceOffer(offer) {
  const sections = parseSections(offer);
  const all = sections.flatMap((section) => section.codecs);
  const kept = new Set();
  for (const codec of [pick(all, "opus"), pick(all, "VP8")]) {
    if (!codec) continue;
    kept.add(codec.payloadType);
    const retransmission = retransmissionOf(all, codec.payloadType);
    if (retransmission) kept.add(retransmission.payloadType);
  }
  const wanted = linesOf(offer).filter((line) => {
    const payloadType = /^a=rtpmap:(\d+) /.exec(line)?.[1];
    return REDUCED.test(line) || (payloadType && kept.has(Number(payloadType)));
  });
  return [...new Set(wanted)].join("\n");
}

/** The codec list of Select Protocol; `first` is the video codec that we would like to send. */
export function listCodecs(offer, first) {
  const all = parseSections(offer).flatMap((section) => section.codecs);
  const audio = pick(all, "opus");
  const list = [
    {
      name: "opus",
      type: "audio",
      priority: 1000,
      payload_type: audio.payloadType,
      rtx_payload_type: null,
    },
  ];
  for (const { name, codec } of videoCodecs(all, first)) {
    list.push({
      name,
      type: "video",
      priority: list.length * 1000,
      payload_type: codec.payloadType,
      rtx_payload_type: retransmissionOf(all, codec.payloadType)?.payloadType ?? null,
      encode: true,
      decode: true,
    });
  }
  return list;
}

/** The server's side of the transport, as Session Description brings it. */
export function parseFragment(text) {
  const lines = linesOf(text);
  const connection = (valueOf(lines, "c=") ?? "").split(" ");
  const fragment = {
    address: connection[2],
    port: Number(valueOf(lines, "a=rtcp:") ?? valueOf(lines, "m=audio ")?.split(" ")[0]),
    ufrag: valueOf(lines, "a=ice-ufrag:"),
    password: valueOf(lines, "a=ice-pwd:"),
    fingerprint: valueOf(lines, "a=fingerprint:"),
    candidates: lines.filter((line) => line.startsWith("a=candidate:")),
  };
  for (const [name, value] of Object.entries(fragment)) {
    if (!value || value.length === 0) throw new BadFragment(`the server's SDP has no ${name}`);
  }
  return fragment;
}

/** Our own SSRCs, as the browser chose them; null for what is not sent. */
export function ownSsrcs(offer) {
  const sending = parseSections(offer).filter(({ direction }) => direction.startsWith("send"));
  const audio = sending.find(({ kind, ssrcs }) => kind === "audio" && ssrcs.length > 0);
  const video = sending.find(({ kind, ssrcs }) => kind === "video" && ssrcs.length > 0);
  return {
    audio: audio ? audio.ssrcs[0] : null,
    video: video ? { media: video.ssrcs[0], retransmission: video.ssrcs.at(-1) } : null,
  };
}

/** Let an offer say that Opus is welcome in stereo, which browsers only say when told to. */
export function wantStereo(offer) {
  return offer.replace(/^(a=fmtp:\d+ minptime=\d+;useinbandfec=1)(\r?)$/gm, "$1;stereo=1$2");
}

/**
 * The answer that the server would give, did it speak SDP.
 *
 * @param {string} offer Our local description.
 * @param {object} fragment From parseFragment.
 * @param {Map<string, {userId: string, ssrc: number}>} sources Who is heard or seen in which
 *   section, by mid.
 * @param {{codec: string, maxKbps: number}} sending The video codec that the server wants us to
 *   send, and how much of it.
 */
export function writeAnswer(offer, fragment, sources, sending) {
  const sections = parseSections(offer);
  const lines = [
    "v=0",
    "o=- 1420070400000 0 IN IP4 127.0.0.1",
    "s=-",
    "t=0 0",
    `a=group:BUNDLE ${sections.map(({ mid }) => mid).join(" ")}`,
    "a=msid-semantic: WMS *",
    "a=ice-lite",
    ...(linesOf(offer).includes("a=extmap-allow-mixed") ? ["a=extmap-allow-mixed"] : []),
  ];
  const withVideo = ownSsrcs(offer).video !== null;
  for (const section of sections) {
    const source = sources.get(section.mid);
    const body =
      section.kind === "audio"
        ? audioLines(section, withVideo)
        : videoLines(section, sending.codec, sending.maxKbps);
    const payloadTypes = body.flatMap((line) => /^a=rtpmap:(\d+)/.exec(line)?.[1] ?? []);
    const { heard, silent } = ANSWERS[section.direction];
    lines.push(
      `m=${section.kind} ${fragment.port} UDP/TLS/RTP/SAVPF ${payloadTypes.join(" ")}`,
      `c=IN ${fragment.address.includes(":") ? "IP6" : "IP4"} ${fragment.address}`,
      "a=setup:passive",
      `a=mid:${section.mid}`,
      `a=${source ? heard : silent}`,
      "a=rtcp-mux",
      `a=ice-ufrag:${fragment.ufrag}`,
      `a=ice-pwd:${fragment.password}`,
      `a=fingerprint:${fragment.fingerprint}`,
      ...fragment.candidates,
      ...body,
      ...(source ? sourceLines(section.kind, source) : []),
    );
  }
  return lines.map((line) => `${line}\r\n`).join("");
}

function audioLines(section, withVideo) {
  const { payloadType, name, clock } = pick(section.codecs, "opus");
  return [
    `a=rtpmap:${payloadType} ${name}/${clock}`,
    `a=fmtp:${payloadType} minptime=10;useinbandfec=1;usedtx=${withVideo ? 0 : 1}`,
    "a=maxptime:60",
    `a=rtcp-fb:${payloadType} transport-cc`,
    ...extensionLines(section, AUDIO_EXTENSIONS),
  ];
}

/** The wanted codec first, which is the one that we send; the others so that we take them. */
function videoLines(section, first, maxKbps) {
  const lines = [];
  for (const { codec } of videoCodecs(section.codecs, first)) {
    const { payloadType, name, clock, parameters } = codec;
    const limit = `x-google-max-bitrate=${maxKbps}`;
    lines.push(
      `a=rtpmap:${payloadType} ${name}/${clock}`,
      `a=fmtp:${payloadType} ${parameters ? `${parameters};` : ""}${limit}`,
      ...VIDEO_FEEDBACK.map((feedback) => `a=rtcp-fb:${payloadType} ${feedback}`),
    );
    const retransmission = retransmissionOf(section.codecs, payloadType);
    if (retransmission) {
      lines.push(
        `a=rtpmap:${retransmission.payloadType} rtx/${retransmission.clock}`,
        `a=fmtp:${retransmission.payloadType} apt=${payloadType}`,
      );
    }
  }
  return [...lines, ...extensionLines(section, VIDEO_EXTENSIONS)];
}

function extensionLines(section, wanted) {
  return wanted
    .filter((uri) => section.extensions.has(uri))
    .map((uri) => `a=extmap:${section.extensions.get(uri)} ${uri}`);
}

/**
 * One person's sound or picture. All of a person is one stream with one name, so that the
 * browser plays lips and voice together; the web client's streams are one for each SSRC.
 */
function sourceLines(kind, { userId, ssrc }) {
  const lines = [`a=msid:${userId} ${kind[0]}${userId}-${ssrc}`, `a=ssrc:${ssrc} cname:${userId}`];
  if (kind === "video") {
    lines.push(`a=ssrc-group:FID ${ssrc} ${ssrc + 1}`, `a=ssrc:${ssrc + 1} cname:${userId}`);
  }
  return lines;
}
