// A bot with @discordjs/voice, unmodified, for the tests: obeys JSON lines on stdin and reports
// JSON lines on stdout. It judges nothing.
//
// The main gateway client is as small as one can be; what matters is the library's own voice.

import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import {
  AudioPlayerStatus,
  EndBehaviorType,
  NoSubscriberBehavior,
  StreamType,
  createAudioPlayer,
  createAudioResource,
  joinVoiceChannel,
} from "@discordjs/voice";
import WebSocket from "ws";

const { api, token, guild } = JSON.parse(process.argv[2]);

const report = (event, data = {}) => process.stdout.write(`${JSON.stringify({ event, ...data })}\n`);

async function logIn(handlers) {
  const headers = { authorization: `Bot ${token}` };
  const { url } = await (await fetch(`${api}/gateway/bot`, { headers })).json();
  const me = await (await fetch(`${api}/users/@me`, { headers })).json();
  const socket = new WebSocket(`${url}?v=10&encoding=json`);
  const send = (op, d) => socket.send(JSON.stringify({ op, d }));
  socket.on("error", (error) => report("error", { message: `${error}` }));
  await new Promise((ready) => {
    socket.on("message", (data) => {
      const { op, d, t } = JSON.parse(data);
      if (op === 10) {
        setInterval(() => send(1, null), d.heartbeat_interval).unref();
        send(2, { token, intents: 1 << 7, properties: { os: "linux", browser: "test" } });
      } else if (t === "READY") {
        ready();
      } else if (t === "VOICE_SERVER_UPDATE") {
        handlers.adapter?.onVoiceServerUpdate(d);
      } else if (t === "VOICE_STATE_UPDATE" && d.user_id === me.id) {
        handlers.adapter?.onVoiceStateUpdate(d);
      }
    });
  });
  return { send, close: () => socket.close() };
}

const handlers = {};
const gateway = await logIn(handlers);
const player = createAudioPlayer({
  behaviors: { noSubscriber: NoSubscriberBehavior.Play, maxMissedFrames: 250 },
});
let connection;

player.on("error", (error) => report("error", { message: `${error}` }));
player.on("stateChange", (_, { status }) => {
  if (status === AudioPlayerStatus.Idle) report("played");
});

const commands = {
  join({ channel }) {
    connection = joinVoiceChannel({
      guildId: guild,
      channelId: channel,
      selfDeaf: false,
      selfMute: false,
      debug: Boolean(process.env.DEBUG_BOT),
      adapterCreator: (methods) => {
        handlers.adapter = methods;
        return {
          sendPayload: ({ op, d }) => (gateway.send(op, d), true),
          destroy: () => (handlers.adapter = undefined),
        };
      },
    });
    connection.on("error", (error) => report("error", { message: `${error}` }));
    connection.on("debug", (message) => process.stderr.write(`${message}\n`));
    connection.on("stateChange", (old, { status, reason, closeCode }) => {
      if (status !== old.status) report("state", { status, reason, closeCode });
    });
    connection.on("transitioned", (transition) => report("transitioned", { transition }));
    connection.subscribe(player);
  },
  move({ channel }) {
    connection.rejoin({ ...connection.joinConfig, channelId: channel });
  },
  listen({ user }) {
    const stream = connection.receiver.subscribe(user, {
      end: { behavior: EndBehaviorType.Manual },
    });
    stream.on("data", (frame) => report("frame", { user, frame: frame.toString("base64") }));
    stream.on("error", (error) => report("error", { message: `${error}` }));
    report("listening", { user });
  },
  play({ frames }) {
    const source = Readable.from(
      frames.map((frame) => Buffer.from(frame, "base64")),
      { objectMode: true },
    );
    player.play(createAudioResource(source, { inputType: StreamType.Opus }));
  },
  code() {
    report("code", { code: connection.voicePrivacyCode ?? null });
  },
  leave() {
    connection.destroy();
    report("left");
  },
};

report("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line);
  commands[command](options);
}
if (connection && connection.state.status !== "destroyed") connection.destroy();
gateway.close();
process.exit(0);
