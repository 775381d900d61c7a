/** The client: a method for each operation of the refund API. */

import { type Answer, readAnswer } from "./answers.js";
import { ApiError, NotFinalError } from "./errors.js";
import type {
  BatchMember,
  BatchResult,
  EventList,
  Explanation,
  Network,
  Preview,
  Refund,
  RefundFilter,
  RefundRequest,
  Token,
} from "./models.js";
import { CallerError, callUntilAnswered, DEFAULTS, pauseAfter, type Retries } from "./retries.js";

export { NotFinalError };

/** The final statuses. Only `confirmed` is paid. */
export const FINAL: ReadonlySet<string> = new Set(["confirmed", "refused", "cancelled", "failed"]);

const LONGEST_WAIT = 20;
const POLL_SECONDS = 3;

export interface Options {
  /** A JWT, or a function that returns a current one and is called for each attempt. */
  readonly token: string | (() => string | Promise<string>);
  /** What differs from 60 seconds, and pauses from half a second to 20 seconds. */
  readonly retries?: Partial<Retries>;
  /** For one attempt, in seconds; 30 by default. */
  readonly timeout?: number;
  /** Replaces the global `fetch`, for a proxy, or to sign requests. */
  readonly fetch?: typeof fetch;
}

interface Request {
  readonly body?: unknown;
  readonly query?: Readonly<Record<string, string | number | undefined>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly wait?: number;
}

/** Returns a random key: store it before the first attempt, to use it after a crash. */
export function newIdempotencyKey(): string {
  return crypto.randomUUID();
}

/**
 * A client of one service.
 *
 * Each call repeats its request after lost answers and temporary errors, until the
 * deadline. Every method throws `ApiError` if the service refuses the request, and
 * `UnansweredError` if there is no answer in time.
 */
export class HotWallet {
  readonly #base: string;
  readonly #token: Options["token"];
  readonly #retries: Retries;
  readonly #timeout: number;
  readonly #fetch: typeof fetch;

  constructor(baseUrl: string, options: Options) {
    const url = new URL(baseUrl);
    if (url.protocol !== "https:" && url.protocol !== "http:") {
      throw new TypeError("baseUrl must begin with https://");
    }
    this.#base = url.href.replace(/\/+$/, "");
    this.#token = options.token;
    this.#retries = { ...DEFAULTS, ...options.retries };
    this.#timeout = options.timeout ?? 30;
    this.#fetch = options.fetch ?? fetch;
  }

  /**
   * Creates a refund, once; the answer says that it is accepted, not that it is paid.
   *
   * The same key is sent with each repetition. Pass one that you have stored, so that a
   * restarted program repeats the request and does not make another one. `wait` is how
   * many seconds the answer waits for the final status, up to 20.
   */
  async createRefund(
    request: RefundRequest,
    { idempotencyKey = newIdempotencyKey(), wait = 0 }: { idempotencyKey?: string; wait?: number } = {},
  ): Promise<Refund> {
    const headers = { "Idempotency-Key": idempotencyKey };
    return this.#read("POST", "/v1/refunds", { body: request, headers, wait });
  }

  /**
   * Creates up to 500 refunds; returns a result for each, in their order.
   *
   * Members with a temporary error are repeated until the deadline. Look at each result:
   * `refund` if it was accepted, or else `problem`. After an error repeat the call: no
   * member is paid twice.
   */
  async createRefunds(members: readonly BatchMember[]): Promise<BatchResult[]> {
    const { clock, deadline, sleep } = this.#retries;
    const results = new Map<number, BatchResult>();
    const until = clock() + deadline;
    let left = [...members.entries()];
    for (let count = 0; left.length > 0; count++) {
      const body = { refunds: left.map(([, member]) => member) };
      const found = await this.#read<{ results: BatchResult[] }>("POST", "/v1/refunds/batch", { body });
      if (found.results.length !== left.length) throw new RangeError("the answer lacks results");
      left.forEach(([number], at) => results.set(number, found.results[at]!));
      left = left.filter(([number]) => results.get(number)?.retry_after !== undefined);
      const waits = left.map(([number]) => results.get(number)?.retry_after ?? 0);
      const pause = Math.max(0, ...waits) + pauseAfter(this.#retries, count);
      if (left.length === 0 || clock() + pause >= until) break;
      await sleep(pause);
    }
    return members.map((_, number) => results.get(number)!);
  }

  /** Returns what would happen with a refund; stores nothing. */
  async previewRefund(request: RefundRequest): Promise<Preview> {
    return this.#read("POST", "/v1/refunds/preview", { body: request });
  }

  /** Returns a refund as it is now. */
  async getRefund(refundId: string): Promise<Refund> {
    return this.#read("GET", pathOf(refundId));
  }

  /**
   * Returns a refund when it is final; `timeout` is in seconds.
   *
   * @throws NotFinalError It was not final in time.
   */
  async waitUntilFinal(refundId: string, { timeout = 120 }: { timeout?: number } = {}): Promise<Refund> {
    const { clock } = this.#retries;
    const until = clock() + timeout;
    for (;;) {
      const wait = Math.max(0, Math.min(LONGEST_WAIT, Math.floor(until - clock())));
      const answer = await this.#call("GET", pathOf(refundId), { wait });
      const refund = JSON.parse(answer.text) as Refund;
      if (FINAL.has(refund.status)) return refund;
      const left = until - clock();
      if (left <= 0) throw new NotFinalError(refund);
      await this.#pauseUnlessWaited(answer, left);
    }
  }

  /** Yields the tenant's refunds, newest first, page by page. */
  async *refunds(filter: RefundFilter = {}): AsyncGenerator<Refund, void> {
    let cursor: string | null | undefined;
    while (cursor !== null) {
      const query = { ...filter, limit: 200, cursor };
      const page: { refunds: Refund[]; next_cursor: string | null } = await this.#read("GET", "/v1/refunds", { query });
      yield* page.refunds;
      cursor = page.next_cursor;
    }
  }

  /**
   * Asks for the end of a refund that has no nonce yet.
   *
   * It is cancelled if its status is; otherwise a worker has not come to it.
   */
  async cancelRefund(refundId: string): Promise<Refund> {
    return this.#read("POST", `${pathOf(refundId)}/cancel`);
  }

  /** Returns why a refund has its status, and what happens next. */
  async explainRefund(refundId: string): Promise<Explanation> {
    return this.#read("GET", `${pathOf(refundId)}/explain`);
  }

  /** Returns what may be refunded, with its limits. */
  async tokens(): Promise<Token[]> {
    return (await this.#read<{ tokens: Token[] }>("GET", "/v1/tokens")).tokens;
  }

  /** Returns where refunds are paid. */
  async networks(): Promise<Network[]> {
    return (await this.#read<{ networks: Network[] }>("GET", "/v1/networks")).networks;
  }

  /**
   * Returns the events after a cursor, oldest first; "0" begins with the oldest.
   *
   * An empty page waits up to `wait` seconds, at most 20, for the next event.
   */
  async listEvents(
    after = "0",
    { limit = 50, wait = 0 }: { limit?: number; wait?: number } = {},
  ): Promise<EventList> {
    return this.#read("GET", "/v1/events", { query: { after, limit }, wait });
  }

  /**
   * Yields pages of events for ever, waiting for new ones.
   *
   * Store the `next_cursor` of a page after its events are processed, and start with it
   * again.
   */
  async *followEvents(after = "0", { limit = 50 }: { limit?: number } = {}): AsyncGenerator<EventList, never> {
    for (;;) {
      const answer = await this.#call("GET", "/v1/events", { query: { after, limit }, wait: LONGEST_WAIT });
      const page = JSON.parse(answer.text) as EventList;
      after = page.next_cursor;
      if (page.events.length > 0) yield page;
      else await this.#pauseUnlessWaited(answer, POLL_SECONDS);
    }
  }

  /** Returns the public keys for `verifyWebhook`; keep them, and ask daily. */
  async webhookKeys(): Promise<string[]> {
    const found = await this.#read<{ keys: { standard_webhooks_key: string }[] }>("GET", "/v1/webhooks/keys");
    return found.keys.map((key) => key.standard_webhooks_key);
  }

  /** The service waits for a limited number of clients, and says if it did. */
  async #pauseUnlessWaited(answer: Answer, atMost: number): Promise<void> {
    if (answer.headers.has("Preference-Applied")) return;
    await this.#retries.sleep(Math.min(POLL_SECONDS * (0.5 + this.#retries.draw()), atMost));
  }

  async #read<T>(method: string, path: string, request: Request = {}): Promise<T> {
    return JSON.parse((await this.#call(method, path, request)).text) as T;
  }

  async #call(method: string, path: string, request: Request): Promise<Answer> {
    const { body, query = {}, wait = 0 } = request;
    const url = new URL(this.#base + path);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    const headers = new Headers(request.headers);
    if (wait > 0) headers.set("Prefer", `wait=${Math.floor(wait)}`);
    const init: RequestInit = { method };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      headers.set("Content-Type", "application/json");
    }
    const attempt = async (left: number): Promise<Answer> => {
      await this.#authorize(headers);
      const seconds = Math.min(this.#timeout + wait, left);
      const signal = AbortSignal.timeout(Math.ceil(seconds * 1000));
      return readAnswer(await this.#fetch(url, { ...init, headers, signal, redirect: "manual" }));
    };
    const key = headers.get("Idempotency-Key") ?? undefined;
    const answer = await callUntilAnswered(this.#retries, attempt, key);
    if (answer.status < 200 || answer.status > 299) throw ApiError.of(answer);
    return answer;
  }

  async #authorize(headers: Headers): Promise<void> {
    try {
      const token = typeof this.#token === "string" ? this.#token : await this.#token();
      headers.set("Authorization", `Bearer ${token}`);
    } catch (error) {
      throw new CallerError(error);
    }
  }
}

function pathOf(refundId: string): string {
  return `/v1/refunds/${encodeURIComponent(refundId)}`;
}
