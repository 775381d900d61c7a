/** Repeats requests that have no usable answer. */

import type { Answer } from "./answers.js";
import { ApiError, UnansweredError } from "./errors.js";

/**
 * How long a call repeats its request, and with which pauses, in seconds.
 *
 * A pause is what `Retry-After` asks for, plus a random part of a bound that doubles from
 * `firstPause` to `longestPause`: clients that failed together spread. `clock`, `sleep`
 * and `draw` (a number from 0 to 1) are for tests.
 */
export interface Retries {
  readonly deadline: number;
  readonly firstPause: number;
  readonly longestPause: number;
  readonly clock: () => number;
  readonly sleep: (seconds: number) => Promise<void>;
  readonly draw: () => number;
}

export const DEFAULTS: Retries = {
  deadline: 60,
  firstPause: 0.5,
  longestPause: 20,
  clock: () => performance.now() / 1000,
  sleep: (seconds) => new Promise((done) => setTimeout(done, seconds * 1000)),
  draw: Math.random,
};

/** An error of the caller's token, which must not be taken for a lost answer. */
export class CallerError extends Error {
  constructor(override readonly cause: unknown) {
    super("there is no token");
  }
}

/**
 * Returns the first answer that a repetition would not change.
 *
 * `attempt` makes the same request each time; it gets the seconds that are left.
 *
 * @throws UnansweredError There was none before the deadline.
 */
export async function callUntilAnswered(
  retries: Retries,
  attempt: (left: number) => Promise<Answer>,
  key?: string,
): Promise<Answer> {
  const until = retries.clock() + retries.deadline;
  for (let count = 0; ; count++) {
    let last: Error;
    let atLeast = 0;
    try {
      const answer = await attempt(Math.max(until - retries.clock(), 0.001));
      if (!shouldRepeat(answer)) return answer;
      last = ApiError.of(answer);
      atLeast = retryAfter(answer);
    } catch (error) {
      if (error instanceof CallerError) throw error.cause;
      last = asError(error); // It is unknown whether the request arrived.
    }
    const pause = atLeast + pauseAfter(retries, count);
    if (retries.clock() + pause >= until) throw new UnansweredError(last, key);
    await retries.sleep(pause);
  }
}

/** Returns the random part of the pause after `count + 1` failures, in seconds. */
export function pauseAfter(retries: Retries, count: number): number {
  return retries.draw() * Math.min(retries.firstPause * 2 ** Math.min(count, 30), retries.longestPause);
}

function shouldRepeat({ status, headers }: Answer): boolean {
  if (status === 501) return false;
  return status === 408 || status === 429 || status >= 500 || (status >= 400 && headers.has("Retry-After"));
}

function retryAfter({ headers }: Answer): number {
  const text = headers.get("Retry-After") ?? "";
  return /^[0-9]{1,9}$/.test(text) ? Number(text) : 0;
}

/** Returns an error whose message has its cause: that of `fetch` is only "fetch failed". */
function asError(error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error));
  const { cause } = error;
  return cause instanceof Error ? new Error(`${error.message} (${cause.message})`, { cause: error }) : error;
}
