/** What can go wrong, and what to do about it. */

import type { Answer } from "./answers.js";
import type { Problem, Refund } from "./models.js";

/** What to do after an error. */
export type Action = "correct" | "authenticate" | "ask-operator" | "look-up" | "repeat";

/** The same as sentences. */
export const ADVICE: Readonly<Record<Action, string>> = {
  correct: "Correct the request; to repeat it does not help.",
  authenticate: "Get a new token.",
  "ask-operator": "Ask the operator of the service, with the request id.",
  "look-up": "Get or list the refund: its state does not allow this.",
  repeat: "Repeat the request later, with the same Idempotency-Key.",
};

const BY_CODE: Readonly<Record<string, Action>> = {
  conflict: "look-up",
  "not-cancellable": "look-up",
  "cursor-expired": "look-up",
  "not-through-proxy": "ask-operator",
  "unsupported-transfer-coding": "correct",
};

const BY_STATUS: Readonly<Record<number, Action>> = {
  401: "authenticate",
  403: "ask-operator",
  408: "repeat",
  429: "repeat",
};

/** The base class of the errors of this package. */
export class HotWalletError extends Error {
  constructor(message: string) {
    super(message);
    this.name = new.target.name;
  }
}

/**
 * The service refused a request with a problem document (RFC 9457).
 *
 * Decide by `code`; `url` is a page that explains it. `action` says what to do.
 */
export class ApiError extends HotWalletError {
  readonly code: string;
  readonly detail: string | undefined;
  /** The field, parameter or header that is wrong. */
  readonly field: string | undefined;
  /** The rule of the policy that refused. */
  readonly rule: string | undefined;
  /** The earlier refund that has the reference or the key. */
  readonly refundId: string | undefined;
  /** Names this request in the service's log. */
  readonly requestId: string | undefined;

  constructor(
    readonly status: number,
    readonly problem: Partial<Problem>,
    readonly url?: string,
  ) {
    const code = problem.code ?? `http-${status}`;
    const where = problem.field ?? problem.rule;
    const parts = [code, where, problem.detail].filter((each) => each !== undefined);
    const request = problem.request_id === undefined ? "" : ` (${problem.request_id})`;
    super(`${parts.join(": ")}${request}. ${ADVICE[actionOf(status, code)]}`);
    this.code = code;
    this.detail = problem.detail;
    this.field = problem.field;
    this.rule = problem.rule;
    this.refundId = problem.refund_id;
    this.requestId = problem.request_id;
  }

  /** Returns the error of an answer, also of one without a problem document. */
  static of({ status, text, url }: Answer): ApiError {
    const problem = readProblem(text);
    const page = typeof problem.type === "string" ? new URL(problem.type, url).href : undefined;
    return new ApiError(status, problem, page);
  }

  /** What to do next. */
  get action(): Action {
    return actionOf(this.status, this.code);
  }
}

/**
 * There was no final answer until the deadline: whether the request acted is unknown.
 *
 * Repeat it later with the same `idempotencyKey`. `cause` is the last failure: an
 * `ApiError` such as 503, or an error of the connection.
 */
export class UnansweredError extends HotWalletError {
  constructor(
    override readonly cause: Error,
    readonly idempotencyKey?: string,
  ) {
    const key = idempotencyKey === undefined ? "" : ` "${idempotencyKey}"`;
    super(
      `no final answer before the deadline, last: ${cause.message.replace(/\.$/, "")}.` +
        ` Repeat the request later, with the same Idempotency-Key${key}.`,
    );
  }
}

/** A refund was not final in time; `refund` is how it was then. */
export class NotFinalError extends HotWalletError {
  constructor(readonly refund: Refund) {
    super(`${refund.id} is still ${refund.status}: wait again`);
  }
}

function actionOf(status: number, code: string): Action {
  const known = BY_CODE[code];
  if (known !== undefined) return known;
  if (status >= 500) return "repeat";
  return BY_STATUS[status] ?? "correct";
}

function readProblem(text: string): Partial<Problem> {
  try {
    const document: unknown = JSON.parse(text);
    const isObject = typeof document === "object" && document !== null && !Array.isArray(document);
    return isObject ? document : {};
  } catch {
    return {}; // Of a proxy, perhaps.
  }
}
