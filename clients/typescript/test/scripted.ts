/** A server whose answers a test writes, and a clock that only pauses move. */

import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";

import { HotWallet, type Options } from "../src/index.js";

/** An answer; without a status the connection is closed instead. */
export interface Reply {
  readonly status?: number;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Seen {
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

export const LOST: Reply = {};

/** Returns a problem document, as the service answers. */
export function problem(status: number, code: string, retryAfter?: number): Reply {
  const headers: Record<string, string> = retryAfter === undefined ? {} : { "Retry-After": String(retryAfter) };
  const body = { type: `/problems/${code}`, status, code, detail: "because", request_id: "req_1" };
  return { status, body, headers };
}

export interface Scripted {
  readonly client: HotWallet;
  readonly url: string;
  readonly seen: Seen[];
  readonly pauses: number[];
}

/** Runs `test` with a service that gives `replies`, and a client of it. */
export async function withReplies(
  replies: readonly Reply[],
  test: (scripted: Scripted) => Promise<void>,
  options: Partial<Options> = {},
): Promise<void> {
  const seen: Seen[] = [];
  const left = [...replies];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (part: Buffer) => (body += part.toString()));
    request.on("end", () => {
      seen.push({ path: request.url ?? "", headers: request.headers, body });
      const reply = left.shift() ?? { status: 418 };
      if (reply.status === undefined) {
        request.socket.destroy();
        return;
      }
      response.writeHead(reply.status, reply.headers);
      response.end(JSON.stringify(reply.body ?? null));
    });
  });
  await listen(server);
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const pauses: number[] = [];
  let now = 0;
  const retries = {
    clock: () => now,
    draw: () => 0.5,
    sleep: async (seconds: number) => {
      pauses.push(seconds);
      now += seconds;
    },
    ...options.retries,
  };
  const client = new HotWallet(url, { token: "t", ...options, retries });
  try {
    await test({ client, url, seen, pauses });
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

function listen(server: Server): Promise<void> {
  return new Promise((done) => server.listen(0, "127.0.0.1", done));
}
